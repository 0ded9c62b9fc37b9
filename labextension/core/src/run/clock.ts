/** Time as the page has it: now, a tick, and the next frame; tests pass one of their own. */

export interface Clock {
  /** Milliseconds since the epoch. */
  nowMs(): number;
  /** Returns a function that ends it. */
  every(ms: number, call: () => void): () => void;
  /** Before the next frame is drawn, or soon where none is (a hidden tab). Returns a function that calls it off. */
  frame(call: () => void): () => void;
}

/** A hidden tab draws no frames, and its timers come late; its stores go on, and its views are drawn a few times a second. */
const HIDDEN_MS = 250;

export const pageClock: Clock = {
  nowMs: () => Date.now(),
  every(ms, call) {
    const timer = setInterval(call, ms);
    return () => clearInterval(timer);
  },
  frame(call) {
    let isDone = false;
    const once = (): void => {
      if (!isDone) {
        off();
        call();
      }
    };
    const timer = setTimeout(once, HIDDEN_MS);
    const frame = typeof requestAnimationFrame === 'function' ? requestAnimationFrame(once) : 0;
    const off = (): void => {
      isDone = true;
      clearTimeout(timer);
      if (typeof cancelAnimationFrame === 'function') {
        cancelAnimationFrame(frame);
      }
    };
    return off;
  }
};
