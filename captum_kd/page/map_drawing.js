"use strict";
// Numbers, colors and drawing of maps. They know nothing of the page; explorer.js uses them.
function makeDrawing(colors) {
  const LEVELS = 512;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function signed(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 0.001 || size >= 1e5 ? size.toExponential(2) : String(Number(size.toPrecision(3)));
    return (value < 0 ? "\u2212" : "+") + text.replace("e+", "e").replace("-", "\u2212");
  }

  const stopsOf = (names) => names.map((name) => [1, 3, 5].map((start) => parseInt(name.slice(start, start + 2), 16)));

  // The color (red, green, blue) of a value between -1 and 1.
  function color(share, scheme) {
    const place = (Math.max(-1, Math.min(1, share)) + 1) / 2 * (scheme.length - 1);
    const low = Math.min(scheme.length - 2, Math.floor(place));
    return scheme[low].map((start, part) => start + (place - low) * (scheme[low + 1][part] - start));
  }

  const stops = { light: stopsOf(colors.light), dark: stopsOf(colors.dark) };
  const table = Array.from({ length: LEVELS + 1 }, (_, level) => color(level / LEVELS * 2 - 1, stops.light));

  // The colors of a word with a value between -1 and 1. Its letters are black or white, by the relative luminance of WCAG.
  function paintWord(span, share) {
    const [light, dark] = [stops.light, stops.dark].map((each) => color(share, each).map(Math.round));
    const linear = light.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    const isDark = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.179;
    span.style.setProperty("--light", `rgb(${light})`);
    span.style.setProperty("--dark", `rgb(${dark})`);
    span.style.setProperty("--ink", isDark ? "#fff" : "#000");
  }

  // The value that gets the last color: Captum's threshold. Larger values sum to this percentage of all; 0 is the largest value.
  function endOfScale(values, percent) {
    const sizes = values.map(Math.abs).sort((one, other) => one - other);
    const most = sizes.reduce((sum, size) => sum + size, 0) * (1 - percent / 100) * (1 - 1e-9);
    let place = 0;
    for (let sum = sizes[0]; place < sizes.length - 1 && sum < most; sum += sizes[place]) place += 1;
    return (percent === 0 ? sizes[sizes.length - 1] : sizes[place]) || 1;
  }

  // For each pixel two positions and the share of the second one: bilinear interpolation between the centers of positions.
  function weights(pixels, size, isSmooth) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const at = (pixel + 0.5) / pixels * size;
      if (!isSmooth) return [Math.floor(at), Math.floor(at), 0];
      const from = Math.max(0, Math.min(size - 1, at - 0.5));
      return [Math.floor(from), Math.min(size - 1, Math.floor(from) + 1), from - Math.floor(from)];
    });
  }

  // At opacity 0 the image, at 1 the map alone. Between them the map fades where its values are small, and the image is gray.
  function drawMap(context, { height, width, values }, end, opacity, isSmooth) {
    const { width: wide, height: high } = context.canvas;
    const pixels = context.getImageData(0, 0, wide, high);
    const content = pixels.data;
    const columns = weights(wide, width, isSmooth);
    const grayness = Math.min(1, 2 * opacity);
    weights(high, height, isSmooth).forEach(([top, bottom, down], row) => columns.forEach(([left, right, along], column) => {
      const upper = values[top * width + left] * (1 - along) + values[top * width + right] * along;
      const lower = values[bottom * width + left] * (1 - along) + values[bottom * width + right] * along;
      const share = Math.max(-1, Math.min(1, (upper * (1 - down) + lower * down) / end));
      const cover = opacity === 0 ? 0 : opacity * Math.abs(share) ** ((1 - opacity) / opacity);
      const shade = table[Math.round((share + 1) / 2 * LEVELS)];
      const at = 4 * (row * wide + column);
      const gray = 0.299 * content[at] + 0.587 * content[at + 1] + 0.114 * content[at + 2];
      for (let part = 0; part < 3; part += 1) {
        const under = content[at + part] + grayness * (gray - content[at + part]);
        content[at + part] = under + cover * (shade[part] - under);
      }
    }));
    context.putImageData(pixels, 0, 0);
  }

  // The border between the positions of a mask that are on and those that are off.
  function drawOutline(context, { height, width, bits }, input) {
    const packed = bytes(bits);
    const isOn = (row, column) => {
      if (row < 0 || column < 0 || row >= height || column >= width) return 0;
      const bit = (input * height + row) * width + column;
      return (packed[bit >> 3] >> (7 - (bit & 7))) & 1;
    };
    const [x, y] = [context.canvas.width / width, context.canvas.height / height];
    const path = new Path2D();
    const line = (fromRow, fromColumn, toRow, toColumn) => {
      path.moveTo(fromColumn * x, fromRow * y);
      path.lineTo(toColumn * x, toRow * y);
    };
    for (let row = 0; row <= height; row += 1) {
      for (let column = 0; column <= width; column += 1) {
        if (isOn(row, column) !== isOn(row - 1, column)) line(row, column, row, column + 1);
        if (isOn(row, column) !== isOn(row, column - 1)) line(row, column, row + 1, column);
      }
    }
    context.lineCap = "square";
    for (const [style, thickness] of [["#000", 6], ["#fff", 3]]) {
      [context.strokeStyle, context.lineWidth] = [style, thickness];
      context.stroke(path);
    }
  }

  return { bytes, drawMap, drawOutline, endOfScale, paintWord, signed };
}
