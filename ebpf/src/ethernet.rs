//! The Ethernet header, and bounds-checked reads of the headers behind it.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};

use crate::packed::{HalfWord, MacWord};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The Ethernet header, behind up to two VLAN tags in the frame. The kernel usually removes the outermost tag before,
/// so three tags are covered.
pub(crate) struct Ethernet {
    pub(crate) source: MacWord,
    pub(crate) ethertype: u16,
    /// The offset of the payload.
    pub(crate) payload: usize,
}

/// Returns `2 * N` bytes at an even `offset`, or `None` past the frame's end.
///
/// Headers are nearly always in the linear part of the packet, which is read directly; a helper reads the rest. The
/// helper copies only these bytes, where `pull_data` would copy the whole head of a cloned packet.
#[inline(always)]
pub(crate) fn read<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[HalfWord; N]> {
    let start = ctx.data() + offset;
    if start + 2 * N <= ctx.data_end() {
        // SAFETY: the verifier has seen the comparison with `data_end`. Frames begin at an even address, and so does
        // every header this is called for.
        return Some(unsafe { *(start as *const [HalfWord; N]) });
    }
    load(ctx, offset)
}

/// Returns bytes as [`read`] does, always by the helper: for offsets known only at run time, for which some verifiers
/// refuse direct packet access.
#[inline(always)]
pub(crate) fn load<T: Copy + Bytes>(ctx: &TcContext, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let length = size_of::<T>() as u32;
    // SAFETY: the buffer has the length that is passed with it; the helper checks the offset.
    let result = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, value.as_mut_ptr().cast(), length) };
    // SAFETY: on success the helper has written all of the buffer, and every bit pattern is a value.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Types for which every bit pattern is a value.
pub(crate) trait Bytes {}
impl<const N: usize> Bytes for [HalfWord; N] {}
impl<const N: usize> Bytes for [u8; N] {}

impl Ethernet {
    /// Parses the header at the frame's start. Returns `None` if the frame ends inside it.
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
