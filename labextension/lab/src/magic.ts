/** The line that makes a cell a launch: whether a cell has it, and putting it on or taking it off. */

const LAUNCH = /^\s*%%elastic_launch\b[^\n]*\n?/;

/** Replace `[start, end)` of the source by `text`: small, so that cursor and undo stay. */
export interface Edit {
  start: number;
  end: number;
  text: string;
}

export function isLaunch(source: string): boolean {
  return LAUNCH.test(source);
}

export function toggleLaunch(source: string, options: string): Edit {
  const line = LAUNCH.exec(source);
  return line
    ? { start: 0, end: line[0].length, text: '' }
    : { start: 0, end: 0, text: `${['%%elastic_launch', options].filter(Boolean).join(' ')}\n` };
}
