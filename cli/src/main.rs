//! The `peernet` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    peernet_cli::main()
}
