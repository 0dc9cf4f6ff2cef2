//! Key functions that users bring (`affinity = { program = … }`): eBPF in an object file, checked as far as the kernel's verifier
//! does not say it in words that a user understands. Not: what it computes, nor loading it (`kernel/splice.rs`).

use std::ops::Range;
use std::path::Path;

use object::elf::EM_BPF;
use object::{
    Architecture, File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
    SymbolKind,
};
use reuseport_lb_common::program::{KEY_FUNCTION as FUNCTION, KEY_FUNCTION_ROOM as ROOM};

use super::choices::{Affinity, KeyFunction};
use crate::printable;

/// Name of the section with the version of the header that the function was compiled with, four bytes.
const ABI: &str = "rlb_abi";

/// Version of the contract between the function and us.
const ABI_VERSION: u32 = 1;

/// Opcodes (RFC 9669, 4.3 and 5.4) and the fields of an instruction.
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const LONG_JUMP: u8 = 0x06;
const LOAD_64: u8 = 0x18;
const CLASS: u8 = 0x07;
const CLASS_JUMP: u8 = 0x05;
const CLASS_JUMP_32: u8 = 0x06;

/// Bytes of an instruction.
const WIDTH: usize = KeyFunction::WIDTH;

impl Affinity {
    /// With what is in the file of the user's function, if there is one.
    pub fn read(self, file: impl FnOnce(&Path) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        match self {
            Self::Program(function) => function
                .read(file)
                .map(Self::Program)
                .map_err(|error| format!("`affinity = {{ program = … }}`: {error}")),
            other => Ok(other),
        }
    }
}

impl KeyFunction {
    /// With the instructions that are in the file now.
    ///
    /// # Errors
    /// What is wrong with the file, and how to mend it.
    pub fn read(self, file: impl FnOnce(&Path) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        let shown = printable::path(&self.path);
        if !self.path.is_absolute() {
            return Err(format!("{shown} is no absolute path: write it from / on"));
        }
        let content = file(&self.path)?;
        let code = instructions(&content).map_err(|error| format!("{shown}: {error}"))?;
        Ok(Self { path: self.path.clone(), code })
    }
}

/// The function's instructions in an object file.
fn instructions(file: &[u8]) -> Result<Vec<u8>, String> {
    let elf = File::parse(file).map_err(|error| format!("it is no object file ({error}): {COMPILE}"))?;
    if elf.architecture() != Architecture::Bpf {
        return Err(format!(
            "it is for {:?} and not for BPF (ELF machine {EM_BPF}): {COMPILE}",
            elf.architecture()
        ));
    }
    if !elf.is_little_endian() {
        return Err(format!("it is big-endian, and this machine is not: {COMPILE}"));
    }
    check_abi(&elf)?;
    let named = elf.symbols().find(|symbol| symbol.name() == Ok(FUNCTION) && symbol.is_definition());
    let symbol = named.filter(|it| it.kind() == SymbolKind::Text).ok_or_else(|| no_function(&elf))?;
    let section = symbol.section_index().and_then(|index| elf.section_by_index(index).ok());
    let section = section.filter(|it| it.kind() == SectionKind::Text).ok_or_else(|| no_function(&elf))?;
    let data = section.data().map_err(|_| format!("{FUNCTION} is cut off: compile it again"))?;
    let range = range_of(symbol.address(), symbol.size(), data.len())?;
    for (at, relocation) in section.relocations() {
        if range.contains(&(at as usize)) {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => elf.symbol_by_index(index).ok(),
                _ => None,
            };
            let name =
                target.and_then(|it| it.name().ok().map(str::to_owned)).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| "something of another section".into());
            let at = (at as usize - range.start) / WIDTH;
            return Err(format!("instruction {at} of {FUNCTION} uses {name}: {ALONE}"));
        }
    }
    let instructions = data[range].to_vec();
    check_instructions(&instructions)?;
    Ok(instructions)
}

const COMPILE: &str = "compile it with `clang -O2 -g -target bpfel -c key.c -o key.o`";

const ALONE: &str = "a key function has no maps, no global variables and no functions besides itself; declare those that it calls \
                     `static __always_inline`";

fn check_abi(elf: &File<'_>) -> Result<(), String> {
    let section =
        elf.section_by_name(ABI).ok_or("it was not compiled with reuseport_lb_key.h: include that")?;
    let data = section.data().ok().and_then(|data| data.first_chunk::<4>().copied());
    let version = data
        .map(u32::from_le_bytes)
        .ok_or("the version of reuseport_lb_key.h in it is cut off: compile it again")?;
    if version == ABI_VERSION {
        return Ok(());
    }
    Err(format!(
        "it was compiled with version {version} of reuseport_lb_key.h, and this is version {ABI_VERSION}: compile it again"
    ))
}

fn no_function(elf: &File<'_>) -> String {
    let functions = elf.symbols().filter(|it| it.kind() == SymbolKind::Text && it.is_definition());
    let names: Vec<&str> =
        functions.filter_map(|it| it.name().ok()).filter(|name| !name.is_empty()).collect();
    let has = if names.is_empty() { "no function".to_owned() } else { format!("only {}", names.join(", ")) };
    format!("it has no function {FUNCTION}, but {has}: `unsigned {FUNCTION}(struct sk_reuseport_md *ctx)`")
}

/// Where in a section of this length a function is.
fn range_of(address: u64, size: u64, length: usize) -> Result<Range<usize>, String> {
    let (start, size) = (address as usize, size as usize);
    let range = start..start.saturating_add(size);
    if range.end > length || !start.is_multiple_of(WIDTH) || !size.is_multiple_of(WIDTH) || size == 0 {
        return Err(format!("{FUNCTION} is cut off: compile it again"));
    }
    if size / WIDTH > ROOM {
        return Err(format!(
            "{FUNCTION} has {} instructions, more than {ROOM}: make it shorter",
            size / WIDTH
        ));
    }
    Ok(range)
}

/// Fails for what the verifier would only say of the whole program.
fn check_instructions(bytes: &[u8]) -> Result<(), String> {
    let instructions: Vec<&[u8; WIDTH]> = bytes.as_chunks::<WIDTH>().0.iter().collect();
    let mut at = 0;
    while let Some(&[code, registers, low, high, a, b, c, d]) = instructions.get(at).copied() {
        let (source, offset, immediate) =
            (registers >> 4, i16::from_le_bytes([low, high]), i32::from_le_bytes([a, b, c, d]));
        let refused = |why: &str| Err(format!("instruction {at} of {FUNCTION} {why}"));
        let by = match code {
            CALL if source == 1 => return refused(&format!("calls another function: {ALONE}")),
            CALL if source != 0 => {
                return refused("calls a function of the kernel that is no helper: it has helpers only");
            }
            LOAD_64 if source != 0 => return refused(&format!("uses a map or a variable: {ALONE}")),
            LOAD_64 => {
                at += 2;
                continue;
            }
            CALL | EXIT => 0,
            LONG_JUMP => immediate as isize,
            code if [CLASS_JUMP, CLASS_JUMP_32].contains(&(code & CLASS)) => isize::from(offset),
            _ => 0,
        };
        let to = at.checked_add_signed(by + 1);
        if by != 0 && to.is_none_or(|to| to >= instructions.len()) {
            return refused("jumps out of it");
        }
        at += 1;
    }
    match instructions.last() {
        Some([EXIT, ..] | [JUMP | LONG_JUMP, ..]) => Ok(()),
        _ => Err(format!("{FUNCTION} does not end with a return: compile it again")),
    }
}
