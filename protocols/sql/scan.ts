/**
 * Whether a word of `text` begins with one of `words` (in capitals; the case in `text` does not matter). Looks at
 * characters and nothing else, comments and literals included: a quick "certainly not" before a text is read properly.
 */
export function beginsWord(text: string, words: readonly string[]): boolean {
  let inWord = false;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    const letter = code | 0x20;
    const isWord = (letter >= 0x61 && letter <= 0x7a) || code === 0x5f || (code >= 0x30 && code <= 0x39);
    if (isWord && !inWord) {
      for (const word of words) {
        if (word.charCodeAt(0) + 0x20 === letter && matches(text, at, word)) return true;
      }
    }
    inWord = isWord;
  }
  return false;
}

function matches(text: string, at: number, word: string): boolean {
  for (let index = 1; index < word.length; index += 1) {
    const code = text.charCodeAt(at + index);
    const capital = code >= 0x61 && code <= 0x7a ? code - 0x20 : code;
    if (capital !== word.charCodeAt(index)) return false;
  }
  return true;
}
