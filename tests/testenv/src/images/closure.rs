//! The shared libraries programs need, as the dynamic linker finds them on this machine.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    exec::run,
    images::{ImageError, layer::Layer},
};

/// `layer` with every library that any of `programs` loads, at the path the linker looks for it. Libraries among
/// the programs are left out: they are where the caller put them.
pub fn with_libraries<'a>(
    layer: Layer,
    programs: impl IntoIterator<Item = &'a Path>,
) -> Result<Layer, ImageError> {
    let programs: BTreeSet<&Path> = programs.into_iter().collect();
    let given: BTreeSet<PathBuf> = programs.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let libraries: BTreeSet<PathBuf> =
        libraries_in(&run(Command::new("ldd").args(programs))?).into_iter().collect();
    Ok(libraries
        .iter()
        .filter(|path| !path.canonicalize().is_ok_and(|path| given.contains(&path)))
        .fold(layer, |layer, path| layer.file(&path.to_string_lossy(), path, 0o755)))
}

/// The programs and libraries directly in `folders`.
pub fn linked_files<P: AsRef<Path>>(
    folders: impl IntoIterator<Item = P>,
    keep: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = Vec::new();
    for folder in folders {
        let error = |source| ImageError::Input { path: folder.as_ref().into(), source };
        for entry in fs::read_dir(&folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            if path.is_file() && keep(&path) && is_elf(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn is_elf(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && &start == b"\x7fELF"
}

/// The files `ldd` names: `libc.so.6 => /lib/libc.so.6 (0x…)` and, for the linker itself, `/lib64/ld-linux.so.2 (0x…)`.
/// Asked about several programs it heads each list with `<program>:`.
fn libraries_in(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
            let path = place.split_whitespace().next()?;
            (path.starts_with('/') && !path.ends_with(':')).then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_linker_are_found_and_the_virtual_one_is_not() {
        let text = "/bin/x:\n\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(text), expected);
        assert!(libraries_in("\tstatically linked").is_empty());
    }
}
