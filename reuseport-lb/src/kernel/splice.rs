//! A key function that the user brings, in the object with our programs: written into the place that is kept for it, so that
//! the verifier checks all as one program. And what it says of the function, if it refuses it. Not: what is in the user's
//! file (`config/key_function.rs`).

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow};
use aya::programs::ProgramError;
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _};
use reuseport_lb_common::program::{KEY_FUNCTION, KEY_FUNCTION_ROOM};

use crate::config::KeyFunction;
use crate::printable;

/// Bytes of an instruction.
const WIDTH: usize = KeyFunction::WIDTH;

/// `goto +0` (RFC 9669, 4.3): does nothing; the verifier removes it.
const NOTHING: [u8; WIDTH] = [0x05, 0, 0, 0, 0, 0, 0, 0];

/// An object of ours, with this function in it if there is one.
pub(super) fn spliced(object: &'static [u8], function: Option<&KeyFunction>) -> Result<Cow<'static, [u8]>> {
    let Some(function) = function else { return Ok(object.into()) };
    let place = place(object).context("the object has no place for a key function")?;
    let mut object = object.to_vec();
    let place = object.get_mut(place..).and_then(|rest| rest.get_mut(..KEY_FUNCTION_ROOM * WIDTH));
    let place = place.context("the place for a key function is cut off")?;
    // At its end, since what comes behind the last `exit` is never reached, which the verifier refuses.
    let code = &function.code;
    let (before, own) = place.split_at_mut(place.len().checked_sub(code.len()).context("it is too long")?);
    before.chunks_exact_mut(WIDTH).for_each(|it| it.copy_from_slice(&NOTHING));
    own.copy_from_slice(code);
    Ok(object.into())
}

/// Where in the object's bytes our own function is.
fn place(object: &[u8]) -> Option<usize> {
    let elf = File::parse(object).ok()?;
    let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(KEY_FUNCTION) && symbol.is_definition())?;
    let (offset, _) = elf.section_by_index(symbol.section_index()?).ok()?.file_range()?;
    (symbol.size() as usize == KEY_FUNCTION_ROOM * WIDTH).then_some((offset + symbol.address()) as usize)
}

/// What the verifier says of the function, in one line; `None` if it was not the verifier that refused to load the program.
pub(super) fn refused(error: &ProgramError, function: &KeyFunction) -> Option<anyhow::Error> {
    let ProgramError::LoadError { verifier_log, .. } = error else { return None };
    let said = said(&verifier_log.to_string(), KEY_FUNCTION_ROOM - function.length())?;
    let path = printable::path(&function.path);
    Some(anyhow!(
        "{path}: the kernel's verifier refuses {KEY_FUNCTION}: {said} (docs/PROGRAMMING.md says what that means)"
    ))
}

/// The last instruction in the verifier's log that is the function's, which stands behind so many that do nothing, and what is
/// said of it.
fn said(log: &str, before: usize) -> Option<String> {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(';'));
    let beginning = format!("Validating {KEY_FUNCTION}()");
    let of_function = lines().skip_while(|line| !line.starts_with(&beginning));
    let mut numbered = of_function.filter_map(|line| {
        let (number, rest) = line.split_once(": ")?;
        Some((number.parse::<usize>().ok()?, rest))
    });
    let first = numbered.next().map(|(number, _)| number + before);
    let instruction = first.and_then(|first| {
        let of_user = |&(number, rest): &(usize, &str)| number >= first && rest.starts_with('(');
        let (number, rest) = numbered.filter(of_user).last()?;
        let text = rest.split(';').next().unwrap_or(rest).trim_end();
        Some(format!("at instruction {} `{text}`: ", number - first))
    });
    let is_report = |line: &str| {
        let number = line.split(':').next().is_some_and(|number| number.parse::<usize>().is_ok());
        let beginnings = [
            "R",
            "from ",
            "old state",
            "cur state",
            "verification time",
            "stack depth",
            "processed ",
            "func#",
            "Validating",
        ];
        number || beginnings.iter().any(|beginning| line.starts_with(beginning))
    };
    // What it reads of registers begins with their names as well.
    let of_register =
        |line: &str| line.starts_with('R') && line.split(' ').next().is_some_and(|word| !word.contains('='));
    let message = lines().rfind(|line| !is_report(line) || of_register(line))?;
    // Numbered in the whole program.
    let message = message.split(" at insn ").next().unwrap_or(message);
    Some(format!("{}{message}", instruction.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_quoted_with_the_number_of_the_users_instruction() {
        // As Linux 6.18 writes it, with three instructions that do nothing.
        let log = "Validating rlb_key() func#1...\n115: R1=ctx() R10=fp0\n; unsafe { asm!() } @ own.rs:14\n\
                   115: (05) goto pc+0\n116: (05) goto pc+0\n117: (05) goto pc+0\n\
                   118: (b7) r1 = 1                     ; R1=1\n119: (85) call bpf_redirect#23\n\
                   program of this type cannot use helper bpf_redirect#23\n\
                   verification time 20168 usec\nstack depth 24+0+72\nprocessed 8346 insns (limit 1000000)\n";
        let expected = "at instruction 1 `(85) call bpf_redirect#23`: program of this type cannot use helper bpf_redirect#23";
        assert_eq!(said(log, 3).as_deref(), Some(expected));
        let log = "Validating rlb_key() func#1...\n5: R1=ctx() R10=fp0\n5: (71) r0 = *(u8 *)(r2 +0)\nR2 !read_ok\nprocessed 9 insns\n";
        assert_eq!(said(log, 0).as_deref(), Some("at instruction 0 `(71) r0 = *(u8 *)(r2 +0)`: R2 !read_ok"));
        let log = "Validating rlb_key() func#1...\n5: R1=ctx() R10=fp0\n5: (05) goto pc-1\ninfinite loop detected at insn 5\n\
                   cur state: R1=ctx() R10=fp0\nold state: R1=ctx() R10=fp0\nprocessed 9 insns\n";
        assert_eq!(
            said(log, 0).as_deref(),
            Some("at instruction 0 `(05) goto pc-1`: infinite loop detected")
        );
        let log = "Validating rlb_key() func#1...\n5: R1=ctx() R10=fp0\n5: (85) call bpf_skb_load_bytes#26\n\
                   R4 invalid zero-sized read: u64=[0,255]\nprocessed 9 insns\n";
        let expected =
            "at instruction 0 `(85) call bpf_skb_load_bytes#26`: R4 invalid zero-sized read: u64=[0,255]";
        assert_eq!(said(log, 0).as_deref(), Some(expected));
        // Before it looks at instructions.
        assert_eq!(said("unreachable insn 118\n", 3).as_deref(), Some("unreachable insn 118"));
        assert_eq!(said("", 0), None);
    }
}
