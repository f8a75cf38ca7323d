//! The labels of holdfast's objects, and the label values of names.

use std::borrow::Cow;

/// The pool of a claim's address, to list a pool's claims. The value is [`label_value`] of the pool's name.
pub const POOL_LABEL: &str = "holdfast.io/pool";

/// The node on which an endpoint is bound. An agent watches the endpoints with its node's name. The value is
/// [`label_value`] of it.
pub const NODE_LABEL: &str = "holdfast.io/node";

/// The longest value of a label. Names may have 253 characters.
const LABEL_LIMIT: usize = 63;

/// Returns the label value of a name, for objects and selectors alike: the name itself where it is a valid label value,
/// else its beginning and a hash of the whole. Two names may have one value, if hardly ever: callers compare the names of
/// the objects that a selector matches.
pub fn label_value(name: &str) -> Cow<'_, str> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |text: &str| [text.bytes().next(), text.bytes().last()].iter().flatten().all(u8::is_ascii_alphanumeric);
    if name.len() <= LABEL_LIMIT && name.bytes().all(inside) && ends(name) {
        return Cow::Borrowed(name);
    }
    // FNV-1a: the same in every version of holdfast, on every machine.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let kept: String = name.bytes().filter(|byte| inside(*byte)).map(char::from).take(LABEL_LIMIT - 17).collect();
    let kept = kept.trim_start_matches(|first: char| !first.is_ascii_alphanumeric());
    let dash = if kept.is_empty() { "" } else { "-" };
    Cow::Owned(format!("{kept}{dash}{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_has_a_valid_label_value() {
        for plain in ["default-v4", "node1.example.com", &"a".repeat(63), ""] {
            assert_eq!(label_value(plain), plain);
        }
        let long = "pool-".repeat(40);
        for odd in [&long, &format!("{long}x"), "(none)", "-a", "a.", "ä", "a b", &"-".repeat(80)] {
            let value = label_value(odd);
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            assert!(value.len() <= 63 && value.bytes().all(fine), "{odd} became {value}");
            let ends = [value.bytes().next().unwrap(), value.bytes().last().unwrap()];
            assert!(ends.iter().all(u8::is_ascii_alphanumeric), "{odd} became {value}");
        }
        assert_ne!(label_value(&long), label_value(&format!("{long}x")));
        assert_eq!(label_value("(none)"), "none-8c36545f724b9460");
    }
}
