//! The program: everything is in the library, so that tests and other programs can call it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if portdistrict::node::init::is_init() {
        portdistrict::node::init::main()
    }
    portdistrict::cli::main()
}
