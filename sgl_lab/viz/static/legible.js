/* Makes text safe to show, by the rules of contracts/legible.py: characters with an effect
 * instead of a shape become visible stand-ins.
 */

const UNFIT =
  String.raw`\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f` +
  String.raw`\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}` +
  String.raw`\u{e0000}-\u{e00ff}\u{e01f0}-\u{e0fff}`;
const JOINERS = String.raw`\u200c\u200d`;
const SELECTORS = String.raw`\ufe00-\ufe0f\u{e0100}-\u{e01ef}`;
const SUSPECT = new RegExp(`[${UNFIT}${JOINERS}${SELECTORS}]`, "u");
const STRANGE = new RegExp(`[${UNFIT}]|(?<=[${JOINERS}])[${JOINERS}]|(?<=[${SELECTORS}])[${SELECTORS}]`, "gu");

function standIn(strange) {
  const code = strange.codePointAt(0);
  if (code < 0x20 || code === 0x7f) return String.fromCodePoint(code < 0x20 ? 0x2400 + code : 0x2421);
  return code >= 0xd800 && code <= 0xdfff ? "\ufffd" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

export const legible = (text) => (SUSPECT.test(text) ? text.replace(STRANGE, standIn) : text);
