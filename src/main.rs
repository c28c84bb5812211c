//! The `meshwright` program: parses the command line, dispatches, and turns errors into exit codes.

fn main() {}
