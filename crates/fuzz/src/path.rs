//! Paths on the drive.

use std::path::{Component, Path};

use mi_kernel::text::{MAX_DRIVE_PATH, drive_path};

/// A text as a path on the drive: what is accepted stays below any directory that it is put in.
pub fn path(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    let Ok(path) = drive_path("path", text) else {
        return false;
    };
    assert_eq!(path, text);
    assert!((1..=MAX_DRIVE_PATH).contains(&path.len()), "{path:?}");
    assert!(!path.chars().any(|char| char.is_control() || char == '\\'), "{path:?}");
    // As the system takes it apart, each component is a plain name and the same as before.
    let components: Vec<&str> = Path::new(path)
        .components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str().expect("a part of a text"),
            other => panic!("{path:?} has {other:?}"),
        })
        .collect();
    assert_eq!(components.join("/"), path);
    true
}
