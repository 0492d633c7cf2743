//! Which files are compressed: those whose sender asks for it, or all where the network says so, but for media that are
//! compressed by their nature. What comes of it is decided chunk by chunk ([`Packed`](crate::disk::Packed)).

use std::fmt;

use clap::ValueEnum;

/// Whether the chunks of a file are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Compression {
    /// They are stored as they are
    #[default]
    Never,
    /// Each chunk that is an eighth smaller that way, unless the media type says that it is compressed already
    Auto,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Never => "never",
            Compression::Auto => "auto",
        })
    }
}

impl Compression {
    /// Whether chunks of that media type are tried at all.
    pub(crate) fn tries(self, content_type: &str) -> bool {
        self == Compression::Auto && !is_compressed(content_type)
    }
}

/// Media that are compressed by their nature: what MinIO leaves alone by default, other pictures and archives, and
/// fonts and documents that are archives. A mistake costs little: what is not listed is tried, chunk by chunk.
fn is_compressed(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let media = media.to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/').unwrap_or_default();
    match kind {
        "video" => true,
        "audio" => !matches!(
            subtype,
            "wav" | "x-wav" | "wave" | "aiff" | "x-aiff" | "midi"
        ),
        "image" => matches!(
            subtype,
            "jpeg" | "png" | "gif" | "webp" | "avif" | "heic" | "heif" | "jxl" | "jp2"
        ),
        "font" => matches!(subtype, "woff" | "woff2"),
        "application" => {
            matches!(
                subtype,
                "zip"
                    | "gzip"
                    | "x-gzip"
                    | "zstd"
                    | "x-zstd"
                    | "x-bzip"
                    | "x-bzip2"
                    | "x-xz"
                    | "x-lzma"
                    | "x-lz4"
                    | "x-compress"
                    | "x-7z-compressed"
                    | "vnd.rar"
                    | "x-rar-compressed"
                    | "java-archive"
                    | "epub+zip"
            ) || subtype.starts_with("vnd.openxmlformats-officedocument")
                || subtype.starts_with("vnd.oasis.opendocument")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_by_its_nature_is_not_tried() {
        for plain in [
            "",
            "text/plain; charset=utf-8",
            "image/svg+xml",
            "audio/wav",
            "odd",
        ] {
            assert!(Compression::Auto.tries(plain), "{plain}");
            assert!(!Compression::Never.tries(plain), "{plain}");
        }
        for packed in [
            "image/JPEG",
            "video/mp4",
            "application/zip; x=y",
            "audio/mpeg",
        ] {
            assert!(!Compression::Auto.tries(packed), "{packed}");
        }
    }
}
