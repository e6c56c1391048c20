"""The data sets as users have them: one reader each gives a Pool, ``splits.folds_of`` says who gets which images."""
