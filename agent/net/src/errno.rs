//! Errnos, with the kernel's own explanation where it gives one.

use std::io;

/// An errno with the text that the kernel attached to it (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, thiserror::Error)]
#[error("{text} ({})", io::Error::from_raw_os_error(*errno))]
struct Explained {
    errno: i32,
    text: String,
}

/// Returns the errno of an error, with or without the kernel's text.
pub(super) fn errno(error: &io::Error) -> Option<i32> {
    let explained = || error.get_ref()?.downcast_ref::<Explained>().map(|explained| explained.errno);
    error.raw_os_error().or_else(explained)
}

/// Returns the error for an errno and the kernel's text for it.
pub(super) fn explained(errno: i32, text: String) -> io::Error {
    io::Error::new(io::Error::from_raw_os_error(errno).kind(), Explained { errno, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_hides_neither_errno_nor_kind() {
        let error = explained(libc::EEXIST, "a text of the kernel".to_owned());
        assert_eq!((errno(&error), error.kind()), (Some(libc::EEXIST), io::ErrorKind::AlreadyExists));
        assert!(error.to_string().starts_with("a text of the kernel ("), "{error}");
        assert_eq!(errno(&io::Error::from_raw_os_error(libc::EBUSY)), Some(libc::EBUSY));
        assert_eq!(errno(&io::ErrorKind::NotFound.into()), None);
    }
}
