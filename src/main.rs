//! Parse, validate, run, exit.

fn main() -> std::process::ExitCode {
    gw::cli::main()
}
