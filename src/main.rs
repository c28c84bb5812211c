//! The `meshwright` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    without_displays();
    meshwright::cli::main()
}

/// Mesa's layer that puts the display's GPU first complains on stderr where there is no display to ask; adapters are sorted
/// by what they are in any case.
fn without_displays() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: no other thread has been started yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
