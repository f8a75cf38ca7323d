//! The archive that a kernel unpacks as its first file system: cpio in the "newc" format.
//! <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>

use std::io::Write;

use anyhow::Result;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const END: &str = "TRAILER!!!";

/// An archive that is being written. Folders have to come before what is in them.
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds an empty folder.
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, FOLDER, &[])
    }

    /// Adds an executable file.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, PROGRAM, bytes)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, LINK, target.as_bytes())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        self.entry(END, 0, &[])?;
        Ok(self.out.flush()?)
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entries += 1;
        let (number, size, name) = (self.entries, u32::try_from(bytes.len())?, path.len() + 1);
        // Magic, inode, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum.
        let header = format!(
            "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name:08x}{0:08x}",
            0, 1
        );
        let head = header.len() + name;
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        // The name ends with a zero, and both name and content end at a multiple of four.
        self.out.write_all(&[0; 4][..=padding(head)])?;
        self.out.write_all(bytes)?;
        Ok(self.out.write_all(&[0; 3][..padding(bytes.len())])?)
    }
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_the_kernel_reads_them() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.program("bin/a", b"hello").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let header = "07070100000001000081ed00000000000000000000000100000000000000050000000000000000\
                      00000000000000000000000600000000";
        assert!(text.starts_with(header), "{text}");
        assert_eq!(&text[110..124], "bin/a\0hello\0\0\0");
        assert!(text[124..].starts_with("070701") && text.contains(END));
    }
}
