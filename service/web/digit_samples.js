/**
 * One of each digit, of those that were held out from training (scikit-learn's digits, from the UCI repository), and
 * another nine, which is hard to tell from a five.
 * A character a pixel, row by row: 0 to 9, then a (10) to g (16).
 */
const WRITTEN = [
  "006ed10003ga5b0005g00d0006c00c3007c00d3003b05c0000d4f400005g6000",
  "007a0000009g0000006g5000009g90000006e1000002g4000014ec41007gggg5",
  "002cga0002fa6f0002714e0000009a000000c3000008e00000fgfa5000188bg6",
  "018ef20002d9e8000000c900002dd000003fg6000110ce0005d56g10019cd900",
  "0000db000008g500003fg400008fga1004geggb007gdfe300000gb000000cb00",
  "00eccd3000g8861000e7500000ffg20000d3680000003d0000548c1001ffb300",
  "0008e400007g700000ea000001g6000003gga00002gce60000cfba00000ad800",
  "001ff200003cg6000004g4000038g4000agggg8008bee510000f6000001f2000",
  "002ga100007ggc00003ggf00002ge000008fg60000d89d0000ca7g00003dfa00",
  "001cge2000db3g5004e00f6006c8dg50009c4a8000300b5000ge5f40003cgb10",
  "007fgc000cgbgd000fgge50008gc0000002c90000009d000002g800000ac1000",
];

/** The digit, what it is called, and its pixels, 0 to 16. */
export const SAMPLES = WRITTEN.map((text, number) => ({
  name: number < 10 ? String(number) : "9?",
  pixels: Array.from(text, (character) => parseInt(character, 17)),
}));
