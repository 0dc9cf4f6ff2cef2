//! The SK_REUSEPORT programs for services whose live connections are counted; see `main.rs`.
#![no_std]
#![no_main]
// The place of a user's function is made of instructions: `own.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod accounts;
mod group;
mod handover;
mod maps;
mod object;
mod own;
mod packet;
mod pick;
mod waiting;

use aya_ebpf::bindings::sk_reuseport_md;
use reuseport_lb_common::load::{Load, LoadLine};
use reuseport_lb_common::select::policy::{
    Bounded as WithinBound, FirstFit, Least as Fewest, PreferWaiting as Waiting,
};
use reuseport_lb_common::steer::{Cpu, Flow, Own, Random, SourceAny, SourceV4, SourceV6};

use crate::group::Kind;
use crate::pick::define;
use crate::waiting::{OFFSETS, offset, read, read_at};

/// Of the socket that was selected last: how many handshakes are under way at it.
#[inline(always)]
fn requests(md: *mut sk_reuseport_md) -> u32 {
    read_at(read(md as u64, &OFFSETS.selected) + offset(&OFFSETS.requests))
}

/// Live connections of an account.
#[inline(always)]
fn live(account: u32) -> u32 {
    accounts::accounts().map_or(0, |accounts| accounts.line(account).live())
}

/// A kind of group whose connections are counted.
macro_rules! kind {
    ($name:ident: $policy:ty) => {
        pub struct $name;

        impl Kind for $name {
            type Policy = $policy;

            #[inline(always)]
            fn connections(md: *mut sk_reuseport_md, line: &LoadLine) -> u32 {
                live(line.worker.get()) + requests(md)
            }

            #[inline(always)]
            fn all_connections(load: &Load) -> u32 {
                live(load.shares.service.get())
            }

            #[inline(always)]
            fn moves(md: *mut sk_reuseport_md, slot: u16) {
                handover::moves(md, slot);
            }
        }
    };
}
kind!(Counted: FirstFit);
kind!(CountedWaiting: Waiting);
kind!(Least: Fewest);
kind!(Bounded: WithinBound);

reuseport_lb_common::counting_programs!(define);
