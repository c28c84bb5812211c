//! How libtorch is looked for, and what the library is never given. No libtorch is opened here.

use super::library::{inside, version};

/// A folder with files, of a test's own.
fn folder(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
    let root = std::env::temp_dir().join(format!("meshwright-torch-{name}-{}", std::process::id()));
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn libtorch_is_found_in_site_packages_archives_and_virtual_environments() {
    for place in ["libtorch_cpu.so", "lib/libtorch_cpu.so", "torch/lib/libtorch_cpu.so"]
        .into_iter()
        .chain(["lib/python3.11/site-packages/torch/lib/libtorch_cpu.so"])
    {
        let root = folder("found", &[(place, "")]);
        let found = inside(&root).into_iter().find(|folder| folder.join("libtorch_cpu.so").is_file());
        assert_eq!(found.map(|folder| folder.join("libtorch_cpu.so")), Some(root.join(place)));
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn only_the_version_that_the_library_links_will_do() {
    type Case = (&'static [(&'static str, &'static str)], Result<&'static str, &'static str>);
    let cases: [Case; 4] = [
        (
            &[("version.py", "from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n")],
            Ok("2.11.0+cu130"),
        ),
        (&[("build-version", "2.11.0+cpu\n")], Ok("2.11.0+cpu")),
        (&[("version.py", "__version__ = '2.10.0'\n")], Err("is torch 2.10.0; 2.11.0 is needed")),
        (&[("other.py", "")], Err("which torch is it?")),
    ];
    for (i, (files, wanted)) in cases.into_iter().enumerate() {
        let root = folder(&format!("version-{i}"), files);
        match (version(&root.join("lib")), wanted) {
            (Ok(version), Ok(wanted)) => assert_eq!(version, wanted),
            (Err(problem), Err(wanted)) => assert!(problem.contains(wanted), "{problem}"),
            (got, wanted) => panic!("{got:?}, should be {wanted:?}"),
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn the_drivers_version_is_found_in_what_linux_tells() {
    let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Mar  3 10:00:00 UTC 2026\nGCC version: 13.3.0\n";
    let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n";
    assert_eq!(super::driver_version(closed).as_deref(), Some("580.159.04"));
    assert_eq!(super::driver_version(open).as_deref(), Some("570.86.15"));
    assert_eq!(super::driver_version("no driver"), None);
}
