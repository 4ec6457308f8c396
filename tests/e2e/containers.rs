//! Containers end to end: the built binary, a real node, real images.

mod node;
