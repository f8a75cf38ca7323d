//! The fields of IPv4 and IPv6 headers that the guard checks.

use aya_ebpf::programs::TcContext;

use crate::{ethernet::read, packed::Ip};

/// Returns the source of the IPv4 packet at `offset`, or `None` if the packet ends inside the header.
#[inline(always)]
pub(crate) fn v4_source(ctx: &TcContext, offset: usize) -> Option<Ip> {
    let [_, _, _, _, _, _, a, b, _, _] = read::<10>(ctx, offset)?;
    Some(Ip::v4([a, b]))
}

/// Returns the destination of the IPv4 packet at `offset`.
#[inline(always)]
pub(crate) fn v4_destination(ctx: &TcContext, offset: usize) -> Option<Ip> {
    read::<2>(ctx, offset + 16).map(Ip::v4)
}

/// Returns the destination of the IPv6 packet at `offset`.
#[inline(always)]
pub(crate) fn v6_destination(ctx: &TcContext, offset: usize) -> Option<Ip> {
    read::<8>(ctx, offset + 24).map(Ip::v6)
}

/// The fields of an IPv6 header up to the source.
pub(crate) struct Ipv6 {
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: Ip,
}

impl Ipv6 {
    /// The length of the whole header in bytes.
    pub(crate) const LENGTH: usize = 40;

    /// Parses the header at `offset`. Returns `None` if the packet ends inside it.
    #[inline(always)]
    pub(crate) fn parse(ctx: &TcContext, offset: usize) -> Option<Self> {
        let [_, _, _, limits, a, b, c, d, e, f, g, h] = read::<12>(ctx, offset)?;
        let [next, hop_limit] = limits.to_ne_bytes();
        Some(Self { next, hop_limit, source: Ip::v6([a, b, c, d, e, f, g, h]) })
    }
}
