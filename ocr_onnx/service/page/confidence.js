// How certain a line is, in three steps that differ by word and by line style, not by colour alone.

const SURE = 0.9;
const CHECK = 0.75;

/** "sure", "check" or "doubt" for a mean probability in 0..1; also the name of its style. */
export function level(score) {
  if (score >= SURE) return "sure";
  return score >= CHECK ? "check" : "doubt";
}

export const WORDS = { sure: "sure", check: "check", doubt: "doubtful" };

/** Whole per cent, rounded down so that only certainty is called 100 %. */
export const percent = (score) => `${Math.floor(score * 100)} %`;
