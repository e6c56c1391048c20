"use strict";
// Which inputs of the explorer are shown, and in which order; state holds the reader's choices.
function makeInputs(data, state, count) {
  const predictions = new Map(data.predictions);
  const everyInput = [...Array(count).keys()];
  const classText = (label) => data.classes[label];

  // True or false, or null where it is not known.
  function isRight(model, input) {
    return data.labels && predictions.has(model) ? predictions.get(model)[input] === data.labels[input] : null;
  }

  const KINDS = {
    all: ["all", () => true],
    gained: ["Student right, Base wrong", (student, base) => student === true && base === false],
    lost: ["Student wrong, Base right", (student, base) => student === false && base === true],
    right: ["both right", (student, base) => student === true && base === true],
    wrong: ["both wrong", (student, base) => student === false && base === false],
  };
  const isOfKind = (kind, input) => KINDS[kind][1](isRight(state.student, input), isRight(state.base, input));

  // The parts in a score by which inputs are sorted, or null.
  function orderOf() {
    const order = state.sort.startsWith("part") ? data.orders[Number(state.sort.slice(4))] : null;
    return order && order.layers[state.layer].some((part) => part !== null) ? order : null;
  }

  function listed() {
    const inputs = everyInput.filter((input) => isOfKind(state.filter, input));
    const ranks = ["gained", "right", "wrong", "lost", "all"];
    const keys = {
      order: () => 0,
      class: (input) => data.labels[input],
      predictions: (input) => ranks.findIndex((kind) => isOfKind(kind, input)),
    };
    const order = orderOf();
    const key = order ? (input) => -(order.layers[state.layer][input] ?? -Infinity) : keys[state.sort];
    const values = everyInput.map(key);
    return inputs.sort((one, other) => (values[one] === values[other] ? one - other : values[one] - values[other]));
  }

  return { KINDS, classText, everyInput, isOfKind, isRight, listed, orderOf, predictions };
}
