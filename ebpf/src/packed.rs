//! Addresses as the machine likes them: in words.
//!
//! Bytes taken one by one out of a packet, shifted together and stored one by one into a key cost more than the rest
//! of the verdict. A packet's headers begin at an even address, so two bytes at a time are always good; on the stack
//! everything here is aligned to four.

use core::mem::transmute;

use aya_ebpf::maps::lpm_trie::Key;
use holdfast_abi::{Address, BindingKey, Mac, MacKey, RateKey};

/// Two bytes of a packet, in the order they are there.
pub(crate) type Half = u16;

/// An IPv6 address, or an IPv4 address v4-mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Ip([u32; 4]);

impl Ip {
    pub(crate) const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    pub(crate) fn v4(halves: [Half; 2]) -> Self {
        Self([0, 0, 0xffff_0000u32, word(halves[0], halves[1])])
    }

    #[inline(always)]
    pub(crate) fn v6(h: [Half; 8]) -> Self {
        Self([word(h[0], h[1]), word(h[2], h[3]), word(h[4], h[5]), word(h[6], h[7])])
    }

    #[inline(always)]
    pub(crate) fn is_unspecified(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The address as maps have it.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &Address {
        // SAFETY: the same sixteen bytes, and a byte needs no alignment.
        unsafe { &*(&raw const self.0).cast::<Address>() }
    }

    #[inline(always)]
    pub(crate) fn binding_key(self, link: u32) -> BindingKey {
        let [a, b, c, d] = self.0;
        // SAFETY: `BindingKey` is link, padding and address, 24 bytes in this order (asserted in the ABI).
        unsafe { transmute([link, 0, a, b, c, d]) }
    }

    #[inline(always)]
    pub(crate) fn rate_key(self, link: u32, kind: u32) -> RateKey {
        let [a, b, c, d] = self.0;
        // SAFETY: `RateKey` is link, kind and address, 24 bytes in this order.
        unsafe { transmute([link, kind, a, b, c, d]) }
    }

    /// The key that finds the longest prefix of this address.
    #[inline(always)]
    pub(crate) fn prefix_key(self) -> Key<Address> {
        let [a, b, c, d] = self.0;
        // SAFETY: `Key` is a length of four bytes and the address, packed.
        unsafe { transmute([128, a, b, c, d]) }
    }
}

/// A MAC in the lower six bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct MacWord(u64);

impl MacWord {
    #[inline(always)]
    pub(crate) fn new(h: [Half; 3]) -> Self {
        Self(u64::from(h[0]) | u64::from(h[1]) << 16 | u64::from(h[2]) << 32)
    }

    #[inline(always)]
    pub(crate) fn of(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// As a plain number, for functions that give it back in a register.
    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// The MAC that [`Self::word`] has made a number of.
    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Maps say with this that any will do.
    #[inline(always)]
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub(crate) fn bytes(self) -> Mac {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    pub(crate) fn key(self) -> MacKey {
        // SAFETY: `MacKey` is the MAC and two bytes of padding, which are zero here as well.
        unsafe { transmute(self.0) }
    }
}

#[inline(always)]
fn word(first: Half, second: Half) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

// The order of bytes within words is that of this target.
#[cfg(not(target_endian = "little"))]
compile_error!("the programs are for little-endian machines");
