//! The portdistrict binary: parses, calls the library and prints.
fn main() {}
