//! Functions that cannot be key functions, and files that have none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use nix::sys::stat::Mode;
use testkit::world::{World, run};

use crate::compiled::{compile, object, object_of};

/// A bad file, and what is said of it.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&World, &'static str) -> PathBuf,
    /// Empty if `make` does not need it.
    source: &'static str,
    pub(crate) says: &'static str,
    /// Whether the file says so by itself; else the kernel's verifier does.
    pub(crate) at_a_look: bool,
}

impl Bad {
    pub(crate) fn file(&self, world: &World) -> PathBuf {
        if self.source.is_empty() {
            return (self.make)(world, self.name);
        }
        let source = format!("#include \"reuseport_lb_key.h\"\n{}\n", self.source);
        object_of(world, self.name, &source)
    }
}

/// A function in C; the header is included before it.
const fn function(name: &'static str, source: &'static str, says: &'static str, at_a_look: bool) -> Bad {
    Bad { name, make: |world, name| world.path(name), source, says, at_a_look }
}

/// Something else.
const fn file(name: &'static str, make: fn(&World, &'static str) -> PathBuf, says: &'static str) -> Bad {
    Bad { name, make, source: "", says, at_a_look: true }
}

/// A good one, as the file of this name.
fn good(world: &World, name: &str) -> PathBuf {
    let file = world.path(name);
    fs::copy(object(world, "rtp"), &file).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    file
}

/// A function that would be good, but for how it is compiled.
const HASH: &str =
    "#include \"reuseport_lb_key.h\"\nunsigned rlb_key(struct sk_reuseport_md *ctx) { return ctx->hash; }\n";

pub(crate) const ALL: &[Bad] = &[
    file("missing", |world, name| world.path(name), "No such file or directory"),
    file(
        "directory",
        |world, name| {
            fs::create_dir(world.path(name)).unwrap();
            world.path(name)
        },
        "no regular file",
    ),
    file(
        "pipe",
        |world, name| {
            nix::unistd::mkfifo(&world.path(name), Mode::S_IRUSR).unwrap();
            world.path(name)
        },
        "no regular file",
    ),
    file("endless", |_, _| "/dev/zero".into(), "no regular file"),
    file("empty", |world, name| world.file(name, ""), "no object file"),
    file("text", |world, name| world.file(name, HASH), "no object file"),
    file(
        "truncated",
        |world, name| {
            let file = good(world, name);
            let whole = fs::read(&file).unwrap();
            fs::write(&file, &whole[..whole.len() / 2]).unwrap();
            file
        },
        "",
    ),
    file(
        "writable",
        |world, name| {
            let file = good(world, name);
            fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
            file
        },
        "others than root can write to",
    ),
    file(
        "of_nobody",
        |world, name| {
            let file = good(world, name);
            chown(&file, Some(65_534), None).unwrap();
            file
        },
        "belongs to user 65534, who could change it",
    ),
    file(
        "x86",
        |world, name| {
            let (source, object) = (world.file("x86.c", HASH), world.path(name));
            let include = format!("-I{}/examples/key", testkit::world::repository().display());
            let [source, out] = [&source, &object].map(|path| path.display().to_string());
            run("cc", &["-O2", &include, "-c", &source, "-o", &out]);
            object
        },
        "not for BPF",
    ),
    file("big_endian", |world, _| compile(world, &world.file("big_endian.c", HASH), "bpfeb"), "big-endian"),
    file(
        "no_header",
        |world, name| object_of(world, name, "struct md; unsigned rlb_key(struct md *ctx) { return 1; }\n"),
        "reuseport_lb_key.h",
    ),
    file(
        "other_abi",
        |world, name| {
            let source = "const unsigned version __attribute__((section(\"rlb_abi\"), used)) = 2;
                          struct md; unsigned rlb_key(struct md *ctx) { return 1; }\n";
            object_of(world, name, source)
        },
        "version 2 of reuseport_lb_key.h",
    ),
    function(
        "other_name",
        "unsigned key(struct sk_reuseport_md *ctx) { return ctx->hash; }",
        "no function rlb_key, but only key",
        true,
    ),
    function(
        "map",
        "struct { int (*type)[2]; unsigned *key, *value; int (*max_entries)[1]; } seen __attribute__((section(\".maps\"), used));
         static void *(*const look)(void *, const void *) = (void *)1;
         unsigned rlb_key(struct sk_reuseport_md *ctx) { unsigned at = 0, *v = look(&seen, &at); return v ? *v : ctx->hash; }",
        "uses seen",
        true,
    ),
    function(
        "global",
        "unsigned count;
         unsigned rlb_key(struct sk_reuseport_md *ctx) { return ctx->hash + ++count; }",
        "uses count",
        true,
    ),
    function(
        "call",
        "__attribute__((noinline)) unsigned other(unsigned a) { __asm__ volatile(\"\" : \"+r\"(a)); return a; }
         unsigned rlb_key(struct sk_reuseport_md *ctx) { return other(ctx->hash); }",
        "static __always_inline",
        true,
    ),
    function(
        "elsewhere",
        "extern unsigned other(unsigned a);
         unsigned rlb_key(struct sk_reuseport_md *ctx) { return other(ctx->hash); }",
        "uses other",
        true,
    ),
    function(
        "long",
        "unsigned rlb_key(struct sk_reuseport_md *ctx)
         { unsigned k = ctx->hash; __asm__ volatile(\".rept 3000\\n%0 += 1\\n.endr\" : \"+r\"(k)); return k; }",
        "3002 instructions",
        true,
    ),
    function(
        "jump",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { if (ctx->len > 20) __asm__ volatile(\"goto +3000\"); return 1; }",
        "jumps out of it",
        true,
    ),
    function(
        "without_end",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { __asm__ volatile(\"r0 = 1\"); __builtin_unreachable(); }",
        "does not end with a return",
        true,
    ),
    function(
        "loop",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { for (;;) __asm__ volatile(\"\" : : : \"memory\"); }",
        "infinite loop detected",
        false,
    ),
    function(
        "out_of_bounds",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { return *(unsigned *)((char *)ctx->data + 16); }",
        "offset is outside of the packet",
        false,
    ),
    function(
        "other_helper",
        "static long (*const store)(void *, unsigned, const void *, unsigned, unsigned long long) = (void *)9;
         unsigned rlb_key(struct sk_reuseport_md *ctx) { unsigned zero = 0; return store(ctx, 8, &zero, 4, 0); }",
        "bpf_skb_store_bytes#9",
        false,
    ),
    function(
        "no_helper",
        "static long (*const unknown)(void *) = (void *)9999;
         unsigned rlb_key(struct sk_reuseport_md *ctx) { return unknown(ctx); }",
        "9999",
        false,
    ),
    function(
        "stack",
        "unsigned rlb_key(struct sk_reuseport_md *ctx)
         { unsigned long long a[62]; RLB_LOOP for (int i = 0; i < 62; i++) a[i] = i;
           __asm__ volatile(\"\" : : \"r\"(a) : \"memory\"); return a[ctx->hash & 31]; }",
        "combined stack size",
        false,
    ),
    function(
        "uninitialised",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { unsigned k; __asm__ volatile(\"%0 = r7\" : \"=r\"(k)); return k; }",
        "R7 !read_ok",
        false,
    ),
    file(
        "returns_nothing",
        |world, name| {
            let source = "#define rlb_key declared\n#include \"reuseport_lb_key.h\"\n#undef rlb_key
                          void rlb_key(struct sk_reuseport_md *ctx) { (void)ctx; }\n";
            object_of(world, name, source)
        },
        "R0 !read_ok",
    )
    .of_the_verifier(),
    function(
        "writes",
        "unsigned rlb_key(struct sk_reuseport_md *ctx)
         { unsigned char *d = ctx->data; if (d + 9 > (unsigned char *)ctx->data_end) return 0; d[8] = 0; return 1; }",
        "cannot write into packet",
        false,
    ),
    function(
        "variable_length",
        "unsigned rlb_key(struct sk_reuseport_md *ctx)
         { unsigned char b[16]; if (rlb_read(ctx, 0, b, 1)) return 1; bpf_skb_load_bytes(ctx, 9, b, b[0]); return b[1]; }",
        "R4 invalid zero-sized read",
        false,
    ),
    function(
        "pointer",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { return (unsigned)(unsigned long long)ctx; }",
        "the register R0",
        false,
    ),
    function(
        "null",
        "unsigned rlb_key(struct sk_reuseport_md *ctx) { return *(volatile unsigned *)ctx->migrating_sk; }",
        "_or_null",
        false,
    ),
];

impl Bad {
    const fn of_the_verifier(mut self) -> Self {
        self.at_a_look = false;
        self
    }
}
