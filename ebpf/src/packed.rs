//! Addresses packed into machine words.
//!
//! Reading an address from a packet byte by byte and storing it into a key byte by byte costs more than the rest of the
//! verdict. The headers of a packet begin at an even address, so reads of two bytes are always aligned; on the stack
//! the types here are aligned to four bytes.

use core::mem::transmute;

use aya_ebpf::maps::lpm_trie::Key;
use holdfast_abi::{Address, BindingKey, Mac, MacKey, RateKey};

/// Two bytes of a packet in the packet's order.
pub(crate) type HalfWord = u16;

/// An IPv6 address, or a v4-mapped IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Ip([u32; 4]);

impl Ip {
    pub(crate) const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    pub(crate) fn v4(halves: [HalfWord; 2]) -> Self {
        Self([0, 0, 0xffff_0000u32, word(halves[0], halves[1])])
    }

    #[inline(always)]
    pub(crate) fn v6(h: [HalfWord; 8]) -> Self {
        Self([word(h[0], h[1]), word(h[2], h[3]), word(h[4], h[5]), word(h[6], h[7])])
    }

    #[inline(always)]
    pub(crate) fn is_unspecified(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// Returns the address as it is in maps.
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

    /// Returns the key for a longest prefix match of this address.
    #[inline(always)]
    pub(crate) fn prefix_key(self) -> Key<Address> {
        let [a, b, c, d] = self.0;
        // SAFETY: `Key` is a length of four bytes and the address, packed.
        unsafe { transmute([128, a, b, c, d]) }
    }
}

/// A MAC address in the lower six bytes of a word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct MacWord(u64);

impl MacWord {
    #[inline(always)]
    pub(crate) fn new(h: [HalfWord; 3]) -> Self {
        Self(u64::from(h[0]) | u64::from(h[1]) << 16 | u64::from(h[2]) << 32)
    }

    #[inline(always)]
    pub(crate) fn of(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// Returns the MAC as an integer, for functions that return it in a register.
    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// Returns the MAC of a result of [`Self::word`].
    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Returns true for the zero MAC, by which maps mean any MAC.
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
fn word(first: HalfWord, second: HalfWord) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

// The words have the byte order of this target.
#[cfg(not(target_endian = "little"))]
compile_error!("the programs are for little-endian machines");
