//! To be written.

const fn main() {}
