//! QR codes as PNG: what every mail program shows.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use qrcode::types::QrError;
use qrcode::{Color, QrCode};

/// Pixels along a module's side.
const SCALE: usize = 6;
/// Modules of white around the code; ISO/IEC 18004 asks for four.
const MARGIN: usize = 4;
const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// One bit per pixel, greyscale; deflate, no filter choice, not interlaced.
const PNG_FORMAT: [u8; 5] = [1, 0, 0, 0, 0];
const NO_FILTER: u8 = 0;

/// The QR code that carries `content`, as a PNG.
///
/// # Errors
/// When the content is too long for a QR code.
pub(super) fn png(content: &str) -> Result<Vec<u8>, QrError> {
    let code = QrCode::new(content)?;
    let width = (code.width() + 2 * MARGIN) * SCALE;
    let side = u32::try_from(width)
        .expect("a QR code has at most 177 modules")
        .to_be_bytes();
    let header = [&side[..], &side[..], &PNG_FORMAT].concat();

    let mut image = PNG_SIGNATURE.to_vec();
    chunk(&mut image, *b"IHDR", &header);
    chunk(&mut image, *b"IDAT", &compress(&scanlines(&code, width)));
    chunk(&mut image, *b"IEND", &[]);
    Ok(image)
}

fn scanlines(code: &QrCode, width: usize) -> Vec<u8> {
    let mut lines = Vec::with_capacity(width * (1 + width.div_ceil(8)));
    for y in 0..width {
        lines.push(NO_FILTER);
        for first in (0..width).step_by(8) {
            let byte = (0..8).filter(|bit| is_white(code, first + bit, y));
            lines.push(byte.fold(0, |byte, bit| byte | 0x80 >> bit));
        }
    }
    lines
}

/// Whether the pixel is white; outside of the code everything is.
fn is_white(code: &QrCode, x: usize, y: usize) -> bool {
    let module = |pixel: usize| {
        (pixel / SCALE)
            .checked_sub(MARGIN)
            .filter(|module| *module < code.width())
    };
    match (module(x), module(y)) {
        (Some(x), Some(y)) => code[(x, y)] == Color::Light,
        _ => true,
    }
}

fn compress(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(data)
        .expect("writing to memory can't fail");
    encoder.finish().expect("writing to memory can't fail")
}

fn chunk(image: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a QR code's image is small");
    let mut checksum = Crc::new();
    checksum.update(&kind);
    checksum.update(data);
    image.extend(length.to_be_bytes());
    image.extend(kind);
    image.extend(data);
    image.extend(checksum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_image_shows_the_code_with_its_margin() {
        let code = QrCode::new("T-1").unwrap();
        let image = png("T-1").unwrap();
        let width = u32::from_be_bytes(image[16..20].try_into().unwrap()) as usize;
        assert_eq!(width, (code.width() + 2 * MARGIN) * SCALE);

        let length = u32::from_be_bytes(image[33..37].try_into().unwrap()) as usize;
        let mut lines = Vec::new();
        flate2::read::ZlibDecoder::new(&image[41..41 + length])
            .read_to_end(&mut lines)
            .unwrap();
        let stride = 1 + width.div_ceil(8);
        assert_eq!(lines.len(), width * stride);
        for (x, y) in [(0, 0), (7, 7), (8, 3), (20, 20)] {
            let (left, top) = ((x + MARGIN) * SCALE, (y + MARGIN) * SCALE);
            let is_white = lines[top * stride + 1 + left / 8] & (0x80 >> (left % 8)) != 0;
            assert_eq!(is_white, code[(x, y)] == Color::Light, "module {x}, {y}");
        }
        assert!(
            lines[1..stride - 1].iter().all(|byte| *byte == 0xff),
            "no margin"
        );
    }

    #[test]
    fn the_checksum_is_that_of_the_png_standard() {
        let image = png("T-1").unwrap();
        assert_eq!(image[image.len() - 12..], *b"\0\0\0\0IEND\xae\x42\x60\x82");
    }
}
