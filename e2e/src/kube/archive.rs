//! The least of tar (POSIX ustar) that an image needs: regular files and folders, always with the same bytes for the same content.

/// An archive that grows in memory.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl Archive {
    pub(super) fn folder(&mut self, name: &str, mode: u32) {
        self.header(&format!("{name}/"), mode, 0, b'5');
    }

    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.header(name, mode, content.len(), b'0');
        self.bytes.extend_from_slice(content);
        self.pad(BLOCK);
    }

    /// The archive with its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// Names of the lab's images are far shorter than the 100 bytes that there are; a longer one would be cut.
    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8) {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, length: usize, value: &[u8]| {
            let value = &value[..value.len().min(length)];
            block[at..at + value.len()].copy_from_slice(value);
        };
        put(0, 100, name.as_bytes());
        put(100, 8, format!("{mode:07o}").as_bytes());
        put(108, 8, b"0000000");
        put(116, 8, b"0000000");
        put(124, 12, format!("{size:011o}").as_bytes());
        put(136, 12, b"00000000000");
        // The checksum counts its own field as spaces.
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(257, 8, b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut archive = Archive::default();
        archive.folder("etc", 0o755);
        archive.file("etc/hello", 0o600, &[b'x'; 700]);
        archive.file("lab", 0o755, b"");
        std::fs::write(&path, archive.finish()).unwrap();
        let output = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        let seen: Vec<_> = lines.iter().map(|fields| (fields[0], fields[2], fields[5])).collect();
        let expected =
            [("drwxr-xr-x", "0", "etc/"), ("-rw-------", "700", "etc/hello"), ("-rwxr-xr-x", "0", "lab")];
        assert_eq!(seen, expected);
    }
}
