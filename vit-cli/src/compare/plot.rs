//! A plot of the signal to noise by layer, as SVG for light and dark pages.
use std::fmt::{self, Write};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
/// The edges of the plot area.
const LEFT: f64 = 56.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = HEIGHT - 44.0;

const STYLE: &str = "\
  <style>
    text { font: 13px sans-serif; fill: #1f2328 } .page { fill: #ffffff } .grid { stroke: #d0d7de }
    polyline { fill: none; stroke: #0969da; stroke-width: 2 } circle { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .page { fill: #0d1117 } .grid { stroke: #30363d }
      polyline { stroke: #58a6ff } circle { fill: #58a6ff }
    }
  </style>
";

/// Differences above this many dB are only rounding of f32.
const MOST: f64 = 100.0;

/// Plots `decibels[n]`, the signal to noise after n layers. Values above [`MOST`] are left out.
pub(super) fn svg(title: &str, decibels: &[f64]) -> Result<String, fmt::Error> {
    let shown = || decibels.iter().copied().enumerate().filter(|point| point.1.is_finite() && point.1 <= MOST);
    let [low, high, step] = scale(shown().map(|point| point.1));
    let last = decibels.len().saturating_sub(1).max(1);
    let x = |layer: usize| LEFT + (RIGHT - LEFT) * layer as f64 / last as f64;
    let y = |decibel: f64| BOTTOM - (BOTTOM - TOP) * (decibel - low) / (high - low);

    let mut svg = String::new();
    let title = escaped(title);
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">"#)?;
    writeln!(svg, "  <title>{title}</title>")?;
    svg += STYLE;
    writeln!(svg, r#"  <rect class="page" width="{WIDTH}" height="{HEIGHT}"/>"#)?;
    writeln!(svg, r#"  <text x="{LEFT}" y="22">{title}</text>"#)?;
    let mut tick = low;
    while tick <= high {
        let at = y(tick);
        writeln!(svg, r#"  <line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/>"#)?;
        writeln!(svg, r#"  <text x="{:.1}" y="{:.1}" text-anchor="end">{tick}</text>"#, LEFT - 8.0, at + 4.0)?;
        tick += step;
    }
    for layer in (0..decibels.len()).step_by(last.div_ceil(12)) {
        let (at, below) = (x(layer), BOTTOM + 18.0);
        writeln!(svg, r#"  <text x="{at:.1}" y="{below:.1}" text-anchor="middle">{layer}</text>"#)?;
    }
    let (middle, below) = ((LEFT + RIGHT) / 2.0, BOTTOM + 36.0);
    writeln!(svg, r#"  <text x="{middle:.1}" y="{below:.1}" text-anchor="middle">layers</text>"#)?;
    let (beside, middle) = (16.0, (TOP + BOTTOM) / 2.0);
    let turned = format!(r#"transform="rotate(-90 {beside} {middle})""#);
    writeln!(svg, r#"  <text x="{beside}" y="{middle}" {turned} text-anchor="middle">dB</text>"#)?;
    let points: Vec<String> = shown().map(|(layer, decibel)| format!("{:.1},{:.1}", x(layer), y(decibel))).collect();
    writeln!(svg, r#"  <polyline points="{}"/>"#, points.join(" "))?;
    for (layer, decibel) in shown() {
        let (x, y) = (x(layer), y(decibel));
        let name = format!("<title>after {layer} layers: {decibel:.1} dB</title>");
        writeln!(svg, r#"  <circle cx="{x:.1}" cy="{y:.1}" r="3.5">{name}</circle>"#)?;
    }
    svg += "</svg>\n";
    Ok(svg)
}

/// The ends of the vertical axis and the step between its lines.
fn scale(decibels: impl Iterator<Item = f64>) -> [f64; 3] {
    let [low, high] = decibels.fold([0.0f64, 10.0], |[low, high], decibel| [low.min(decibel), high.max(decibel)]);
    let step = [5.0, 10.0, 20.0, 50.0, 100.0].into_iter().find(|step| (high - low) / step <= 8.0).unwrap_or(1000.0);
    [(low / step).floor() * step, (high / step).ceil() * step, step]
}

/// Escapes text for XML, and replaces control characters, which XML does not allow.
fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_plot() {
        for decibels in [
            vec![f64::INFINITY, 40.0, 31.5, -3.0],
            vec![f64::INFINITY; 3],
            vec![12.0],
            vec![],
            (0..200).map(|layer| 150.0 - f64::from(layer)).collect(),
        ] {
            let svg = svg("a <b> & c", &decibels).unwrap();
            assert!(svg.contains("<title>a &lt;b&gt; &amp; c</title>") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let number = |line: &str, key: &str| -> f64 {
                let (_, rest) = line.split_once(&format!("{key}=\"")).unwrap();
                rest.split('"').next().unwrap().parse().unwrap()
            };
            let circles: Vec<_> = svg.lines().filter(|line| line.contains("<circle")).collect();
            assert_eq!(circles.len(), decibels.iter().filter(|decibel| **decibel <= MOST).count());
            for circle in circles {
                assert!((LEFT..=RIGHT).contains(&number(circle, "cx")), "{circle}");
                assert!((TOP..=BOTTOM).contains(&number(circle, "cy")), "{circle}");
            }
            assert!(svg.lines().filter(|line| line.contains("class=\"grid\"")).count() <= 11);
        }
    }
}
