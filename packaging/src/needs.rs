//! What a binary needs of the system's libraries, in the words of each kind of package.

use std::path::Path;

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::FileHeader as _;

/// A library that a binary is linked with, and the versions of its symbols that it uses.
pub(crate) struct Library {
    name: String,
    versions: Vec<String>,
}

/// Reads them from the binary.
pub(crate) fn libraries(binary: &Path) -> Result<Vec<Library>> {
    let data = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let header = FileHeader64::<LittleEndian>::parse(&*data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, &*data)?;
    let mut found = Vec::new();
    if let Some((mut needed, strings)) = sections.gnu_verneed(endian, &*data)? {
        let strings = sections.strings(endian, &*data, strings)?;
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        while let Some((library, mut symbols)) = needed.next()? {
            let mut versions = Vec::new();
            while let Some(symbol) = symbols.next()? {
                versions.push(text(symbol.name(endian, strings)?));
            }
            versions.sort();
            found.push(Library { name: text(library.file(endian, strings)?), versions });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The value of `Depends` in a .deb.
pub(crate) fn of_deb(libraries: &[Library]) -> String {
    let newest = libraries.iter().flat_map(|library| &library.versions).filter_map(|it| glibc(it)).max();
    let mut needs: Vec<String> =
        newest.map(|(major, minor)| format!("libc6 (>= {major}.{minor})")).into_iter().collect();
    if libraries.iter().any(|library| library.name.starts_with("libgcc_s.")) {
        needs.push("libgcc-s1".into());
    }
    needs.join(", ")
}

/// What an .rpm requires: each version of each library.
pub(crate) fn of_rpm(libraries: &[Library]) -> Vec<String> {
    let of = |library: &Library| {
        let name = library.name.clone();
        library.versions.clone().into_iter().map(move |version| format!("{name}({version})(64bit)"))
    };
    libraries.iter().flat_map(of).collect()
}

fn glibc(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("GLIBC_")?.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_what_is_needed() {
        let library = |name: &str, versions: &[&str]| Library {
            name: name.into(),
            versions: versions.iter().copied().map(String::from).collect(),
        };
        let all = [
            library("libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4"]),
            library("libgcc_s.so.1", &["GCC_3.0"]),
        ];
        assert_eq!(of_deb(&all), "libc6 (>= 2.34), libgcc-s1");
        assert_eq!(of_deb(&[]), "");
        assert_eq!(of_rpm(&all)[3], "libgcc_s.so.1(GCC_3.0)(64bit)");
    }
}
