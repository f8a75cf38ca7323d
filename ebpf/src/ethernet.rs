//! Reading a frame's headers, without trusting one byte of it.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};

use crate::words::{Half, MacWord};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The Ethernet header, seen through up to two VLAN tags in the frame. (The kernel has taken the outermost one off
/// before, wherever it could, so that three are seen through.)
pub(crate) struct Ethernet {
    pub(crate) source: MacWord,
    pub(crate) ethertype: u16,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

/// `2 * N` bytes at an even `offset`, or `None` past the frame's end.
///
/// Headers are nearly always in the linear part of the packet and are read from there; the helper reads the rest. It
/// copies nothing but what is asked for, where `pull_data` would copy the whole head of a cloned packet.
#[inline(always)]
pub(crate) fn read<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[Half; N]> {
    let start = ctx.data() + offset;
    if start + 2 * N <= ctx.data_end() {
        // SAFETY: the verifier has seen the comparison with `data_end`. Frames begin at an even address, and so does
        // every header this is called for.
        return Some(unsafe { *(start as *const [Half; N]) });
    }
    load(ctx, offset)
}

/// As [`read`], always by the helper: for offsets that are only known at run time, which not every verifier follows
/// into the packet.
#[inline(always)]
pub(crate) fn load<T: Copy + Bytes>(ctx: &TcContext, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let length = size_of::<T>() as u32;
    // SAFETY: the buffer has the length that is passed with it; the helper checks the offset.
    let result = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, value.as_mut_ptr().cast(), length) };
    // SAFETY: on success the helper has written all of the buffer, and any bytes are a value.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Types of which any bytes are a value.
pub(crate) trait Bytes {}
impl<const N: usize> Bytes for [Half; N] {}
impl<const N: usize> Bytes for [u8; N] {}

impl Ethernet {
    /// Parses the frame's head. `None` if it is cut short.
    #[inline(always)]
    pub(crate) fn parse(ctx: &TcContext) -> Option<Self> {
        let [_, _, _, a, b, c, protocol] = read::<7>(ctx, 0)?;
        let source = MacWord::new([a, b, c]);
        let mut ethertype = u16::from_be(protocol);
        let mut payload = 14;
        if is_vlan(ethertype) {
            let [_, protocol] = read::<2>(ctx, 14)?;
            ethertype = u16::from_be(protocol);
            payload = 18;
            if is_vlan(ethertype) {
                let [_, protocol] = read::<2>(ctx, 18)?;
                ethertype = u16::from_be(protocol);
                payload = 22;
            }
        }
        Some(Self { source, ethertype, payload })
    }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    ethertype == VLAN || ethertype == SERVICE_VLAN
}
