//! How an app goes from one release to the next, and back: a pure state machine.
