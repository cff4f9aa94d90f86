//! QR codes as PNG, which every mail program can show.

use png::{BitDepth, ColorType, Compression, EncodingError, Filter};
use qrcode::canvas::{Canvas, MaskPattern};
use qrcode::types::QrError;
use qrcode::{Color, EcLevel, bits, ec};

/// Pixels per side of a module.
const SCALE: usize = 6;
/// Quiet zone in modules, as required by ISO/IEC 18004.
const MARGIN: usize = 4;
/// Fixed mask pattern. ISO/IEC 18004 has an encoder evaluate all eight, which takes longer than
/// everything else in a mail. Readers accept any, and a signed ticket is noise under each.
const MASK: MaskPattern = MaskPattern::Checkerboard;

/// Error of rendering a QR code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("the content is too long for a QR code")]
    Content(#[from] QrError),
    #[error("failed to encode the image")]
    Png(#[from] EncodingError),
}

/// Renders `content` as a PNG.
///
/// # Errors
/// When the content is too long for a QR code.
pub(super) fn png(content: &str) -> Result<Vec<u8>, ImageError> {
    let code = Code::of(content)?;
    let width = (code.width + 2 * MARGIN) * SCALE;
    let side = u32::try_from(width).expect("a QR code has at most 177 modules");

    let mut image = Vec::new();
    let mut encoder = png::Encoder::new(&mut image, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.set_compression(Compression::Fast);
    // Most scanlines repeat the one above.
    encoder.set_filter(Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&scanlines(&code, width))?;
    writer.finish()?;
    Ok(image)
}

/// The modules of a code, row by row.
struct Code {
    width: usize,
    modules: Vec<Color>,
}

impl Code {
    fn of(content: &str) -> Result<Self, QrError> {
        let level = EcLevel::M;
        let bits = bits::encode_auto(content.as_bytes(), level)?;
        let version = bits.version();
        let (data, correction) = ec::construct_codewords(&bits.into_bytes(), version, level)?;
        let mut canvas = Canvas::new(version, level);
        canvas.draw_all_functional_patterns();
        canvas.draw_data(&data, &correction);
        canvas.apply_mask(MASK);
        Ok(Self {
            width: usize::try_from(version.width()).expect("at most 177"),
            modules: canvas.into_colors(),
        })
    }
}

/// Renders scanlines of one bit per pixel, each padded to whole bytes.
fn scanlines(code: &Code, width: usize) -> Vec<u8> {
    let mut lines = Vec::with_capacity(width * width.div_ceil(8));
    for y in 0..code.width + 2 * MARGIN {
        let begin = lines.len();
        for first in (0..width).step_by(8) {
            let byte = (0..8).filter(|bit| is_white(code, first + bit, y * SCALE));
            lines.push(byte.fold(0, |byte, bit| byte | 0x80 >> bit));
        }
        let end = lines.len();
        for _ in 1..SCALE {
            lines.extend_from_within(begin..end);
        }
    }
    lines
}

/// Returns true if the pixel is white, as are all outside of the code.
fn is_white(code: &Code, x: usize, y: usize) -> bool {
    let module = |pixel: usize| {
        (pixel / SCALE)
            .checked_sub(MARGIN)
            .filter(|module| *module < code.width)
    };
    match (module(x), module(y)) {
        (Some(x), Some(y)) => code.modules[y * code.width + x] == Color::Light,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Decodes the PNG to 8-bit grey.
    fn shown(image: &[u8]) -> (usize, Vec<u8>) {
        let mut decoder = png::Decoder::new(Cursor::new(image));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let shown = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(shown.width, shown.height);
        (shown.width as usize, pixels)
    }

    #[test]
    fn a_reader_reads_the_content_from_the_image() {
        for length in [1, 40, 160, 300] {
            // Including content without any entropy.
            for content in [
                "0".repeat(length),
                "eyJhbGciOiJFZERTQSJ9".repeat(length / 20),
            ] {
                let image = png(&content).unwrap();
                let (width, pixels) = shown(&image);
                let mut picture =
                    rqrr::PreparedImage::prepare_from_greyscale(width, width, |x, y| {
                        pixels[y * width + x]
                    });
                let grids = picture.detect_grids();
                assert_eq!(grids.len(), 1, "{content}");
                assert_eq!(grids[0].decode().unwrap().1, content);
            }
        }
    }

    #[test]
    fn there_are_four_modules_of_white_around() {
        let (width, pixels) = shown(&png("T-1").unwrap());
        let border = MARGIN * SCALE;
        let is_outside = |at: usize| at < border || at >= width - border;
        let outside =
            (0..width * width).filter(|at| is_outside(at % width) || is_outside(at / width));
        for at in outside {
            assert_eq!(pixels[at], 0xff);
        }
        assert_eq!(
            pixels[border * width + border],
            0,
            "the code's corner is dark"
        );
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        assert!(png(&"x".repeat(3_000)).is_err());
    }
}
