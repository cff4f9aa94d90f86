// The last five minutes of arrivals as a line, one point a second.

const POINTS = 300;
const HEIGHT = 100;

let values = [];

/** Clears the line, for another sale. */
export function forget() {
  values = [];
}

/** Adds the latest value at the right, and draws line and limit. */
export function draw(svg, value, limit) {
  values = [...values, value].slice(-POINTS);
  const top = Math.max(1, limit, ...values) * 1.15;
  const y = (number) => HEIGHT - (number / top) * HEIGHT;
  const points = values.map((number, index) => `${POINTS - values.length + index},${y(number)}`);
  svg.querySelector('polyline').setAttribute('points', points.join(' '));
  for (const end of ['y1', 'y2']) svg.querySelector('line').setAttribute(end, y(limit));
}
