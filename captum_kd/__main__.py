"""``python -m captum_kd``: the command ``captum-kd`` from source, without installation."""

from captum_kd.command.parser import run

if __name__ == "__main__":
    run()
