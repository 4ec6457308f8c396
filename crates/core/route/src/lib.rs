//! Where a request goes: which route takes it, which instance answers it, and what is tried when that fails.
//!
//! Pure: time comes in as an argument and nothing is read or sent. The proxy asks and reports outcomes; everything that
//! can be decided without a socket is decided here, so that tables and properties can test it.
