/* A distribution at another temperature, computed from its likeliest tokens only.
 *
 * The model's own distribution has temperature 1. The remaining probability is attributed to
 * tokens as likely as the last recorded alternative, as few as can hold it.
 */

/**
 * `{ own, rest, alternatives: [text, share, share before] }`, likeliest first; null if no
 * alternatives were recorded.
 */
export function tempered([text, , logprob, , top], temperature) {
  if (logprob === null || !top?.length) return null;
  const known = top.some(([other]) => other === text) ? [...top] : [...top, [text, logprob]];
  const least = Math.min(...known.map(([, value]) => value));
  const most = Math.max(...known.map(([, value]) => value));
  const left = Math.max(0, 1 - known.reduce((sum, [, value]) => sum + Math.exp(value), 0));
  const weigh = (value) => Math.exp((value - most) / temperature);
  const beyond = (left / Math.exp(least)) * weigh(least);
  const total = known.reduce((sum, [, value]) => sum + weigh(value), beyond);
  const alternatives = known.map(([other, value]) => [other, weigh(value) / total, Math.exp(value)]).sort((a, b) => b[2] - a[2]);
  return { own: weigh(logprob) / total, rest: beyond / total, alternatives };
}
