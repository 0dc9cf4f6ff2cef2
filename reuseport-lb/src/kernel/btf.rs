//! The kernel's description of its own types (BTF), PURE: where a field is in a structure. Not: reading that
//! from the kernel (`offsets.rs`). The format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h.

/// `BTF_MAGIC`, as a little-endian machine writes it.
const MAGIC: u16 = 0xeb9f;

/// Kinds of types that this file follows (`BTF_KIND_…`).
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;

/// How many anonymous members within each other, or names of a type one after the other, are followed.
const DEEPEST: usize = 8;

/// All types, in the order of their numbers, which begin with 1.
pub struct Btf<'a> {
    types: Vec<&'a [u8]>,
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Parses the content of `/sys/kernel/btf/vmlinux`. The error says what is wrong with that file.
    pub fn parse(data: &'a [u8]) -> Result<Self, String> {
        let cut = || "it is cut off".to_owned();
        let word = |at| word(data, at).ok_or_else(cut);
        if word(0)? as u16 != MAGIC {
            return Err("it does not begin like BTF of this machine".into());
        }
        let header = word(4)? as usize;
        let section = |at| -> Result<&'a [u8], String> {
            let (begin, length) = (header + word(at)? as usize, word(at + 4)? as usize);
            data.get(begin..begin + length).ok_or_else(cut)
        };
        let (mut rest, strings) = (section(8)?, section(16)?);
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = self::word(rest, 4).ok_or_else(cut)?;
            let length = 12 + extra(info)?;
            types.push(rest.get(..length).ok_or_else(cut)?);
            rest = &rest[length..];
        }
        Ok(Self { types, strings })
    }

    /// Offset of `path` (`socket_wq.wait.head`: a structure, its field, a field of that) from the
    /// beginning of the structure, in bytes.
    pub fn offset(&self, path: &str) -> Result<u32, String> {
        let mut names = path.split('.');
        let structure = names.next().unwrap_or_default();
        let mut at = self
            .types
            .iter()
            .find(|it| kind(it) == STRUCT && self.name(it) == structure.as_bytes())
            .ok_or_else(|| format!("there is no structure {structure}"))?;
        let mut offset = 0;
        for name in names {
            let (bits, id) =
                self.member(at, name, DEEPEST).ok_or_else(|| format!("{path}: there is no field {name}"))?;
            offset += bits / 8;
            at = self.resolve(id).ok_or_else(|| format!("{path}: the type of {name} is unknown"))?;
        }
        Ok(offset)
    }

    /// The offset in bits, and the type, of a member, which may be within an anonymous member.
    fn member(&self, of: &[u8], name: &str, depth: usize) -> Option<(u32, u32)> {
        if !matches!(kind(of), STRUCT | UNION) {
            return None;
        }
        of[12..].chunks_exact(12).find_map(|member| {
            let (id, offset) = (word(member, 4)?, word(member, 8)?);
            // In a structure with bit fields, the upper 8 bits are a size (`kind_flag`).
            let bits = if word(of, 4)? >> 31 == 1 { offset & 0xff_ffff } else { offset };
            match self.name(member) {
                known if known == name.as_bytes() => Some((bits, id)),
                [] if depth > 0 => {
                    let (within, id) = self.member(self.resolve(id)?, name, depth - 1)?;
                    Some((bits + within, id))
                }
                _ => None,
            }
        })
    }

    /// The type behind typedefs, `const` and `volatile`.
    fn resolve(&self, mut id: u32) -> Option<&&'a [u8]> {
        for _ in 0..DEEPEST {
            let it = self.types.get((id as usize).checked_sub(1)?)?;
            if !matches!(kind(it), TYPEDEF | VOLATILE | CONST) {
                return Some(it);
            }
            id = word(it, 8)?;
        }
        None
    }

    /// The name of a type or of a member: both begin with its offset in the strings.
    fn name(&self, of: &[u8]) -> &'a [u8] {
        let rest = word(of, 0).and_then(|at| self.strings.get(at as usize..)).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn kind(of: &[u8]) -> u32 {
    word(of, 4).unwrap_or_default() >> 24 & 0x1f
}

/// How many bytes follow the three words that every type begins with.
fn extra(info: u32) -> Result<usize, String> {
    let count = (info & 0xffff) as usize;
    Ok(match info >> 24 & 0x1f {
        // Integers; variables; tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        STRUCT | UNION => 12 * count,
        // Enumerations; prototypes of functions.
        6 | 13 => 8 * count,
        // Sections; enumerations of 64 bits.
        15 | 19 => 12 * count,
        // Pointers, declarations, names, qualifiers, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        other => return Err(format!("it has a kind of type that is not known here: {other}")),
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types from words, with their names behind them.
    fn file(types: &[u32], strings: &str) -> Vec<u8> {
        let length = types.len() as u32 * 4;
        let header = [0x1_eb9f, 24, 0, length, length, strings.len() as u32];
        let words = header.iter().chain(types).flat_map(|word| word.to_le_bytes());
        words.chain(strings.bytes()).collect()
    }

    /// `struct outer { int a; union { inner_t in; }; }`, `struct inner { int x; int y; }`.
    fn example() -> Vec<u8> {
        let strings = "\0outer\0inner\0inner_t\0a\0in\0x\0y\0";
        let at = |name: &str| strings.find(&format!("\0{name}\0")).unwrap() as u32 + 1;
        let kind = |kind: u32, count: u32| kind << 24 | count;
        file(
            &[
                // 1: int
                [0, kind(1, 0), 4, 32].as_slice(),
                // 2: struct outer
                &[at("outer"), kind(STRUCT, 2) | 1 << 31, 12, at("a"), 1, 32 << 24, 0, 3, 32],
                // 3: the anonymous union
                &[0, kind(UNION, 1), 8, at("in"), 4, 0],
                // 4: inner_t, 5: const, 6: struct inner
                &[at("inner_t"), kind(TYPEDEF, 0), 5],
                &[0, kind(CONST, 0), 6],
                &[at("inner"), kind(STRUCT, 2), 8, at("x"), 1, 0, at("y"), 1, 32],
            ]
            .concat(),
            strings,
        )
    }

    #[test]
    fn fields_are_found_through_names_and_anonymous_members() {
        let example = example();
        let btf = Btf::parse(&example).unwrap();
        for (path, offset) in
            [("outer.a", 0), ("outer.in", 4), ("outer.in.y", 8), ("inner.x", 0), ("inner.y", 4)]
        {
            assert_eq!(btf.offset(path), Ok(offset), "{path}");
        }
        assert_eq!(btf.offset("outer.b").unwrap_err(), "outer.b: there is no field b");
        assert_eq!(btf.offset("outer.a.x").unwrap_err(), "outer.a.x: there is no field x");
        assert_eq!(btf.offset("middle.a").unwrap_err(), "there is no structure middle");
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        let whole = example();
        for length in 0..whole.len() {
            assert!(Btf::parse(&whole[..length]).is_err(), "{length}");
        }
        let mut other = whole.clone();
        other[0] = 0;
        assert!(Btf::parse(&other).is_err_and(|error| error.contains("begin")));
        let mut unknown = whole;
        unknown[24 + 7] = 31;
        assert!(Btf::parse(&unknown).is_err_and(|error| error.contains("31")));
    }
}
