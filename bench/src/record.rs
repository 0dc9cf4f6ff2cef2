//! What was measured: samples, what they mean together, and how far the run has got.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A section may take so many times what it takes by experience, and so much more.
const PATIENCE: (f64, Duration) = (3.0, Duration::from_secs(60));

/// How variants begin that are ours.
pub(crate) const OURS: &str = "reuseport-lb";

/// A figure of one run.
pub(crate) struct Sample {
    pub(crate) section: &'static str,
    pub(crate) variant: String,
    pub(crate) metric: &'static str,
    pub(crate) run: usize,
    pub(crate) value: f64,
}

/// All figures, and the clock of the whole run.
pub(crate) struct Record {
    pub(crate) quick: bool,
    pub(crate) samples: Vec<Sample>,
    /// What could not be measured, or is worth knowing.
    pub(crate) remarks: Vec<(&'static str, String)>,
    begun: Instant,
    /// Seconds that all steps take by experience, and those that are done.
    planned: f64,
    done: f64,
    now: Arc<Mutex<Now>>,
}

/// What runs, and until when its section has time.
#[derive(Default)]
struct Now {
    what: String,
    until: Option<Instant>,
}

impl Record {
    pub(crate) fn new(quick: bool, planned: f64) -> Self {
        let now = Arc::new(Mutex::new(Now::default()));
        std::thread::spawn({
            let now = Arc::clone(&now);
            move || watch(&now)
        });
        let begun = Instant::now();
        Self { quick, samples: Vec::new(), remarks: Vec::new(), begun, planned, done: 0.0, now }
    }

    /// A section begins that takes `seconds` by experience.
    pub(crate) fn begin(&self, seconds: f64) {
        let limit = Duration::from_secs_f64(seconds * PATIENCE.0) + PATIENCE.1;
        self.now().until = Some(Instant::now() + limit);
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first or the second number, for a quick run or a whole one.
    pub(crate) fn either<T>(&self, quick: T, whole: T) -> T {
        if self.quick { quick } else { whole }
    }

    /// Says what runs now, and how long all that is left will take; it will take `seconds` itself.
    /// An error if its section has had its time.
    pub(crate) fn step(&mut self, what: &str, seconds: f64) -> Result<()> {
        let spent = self.begun.elapsed().as_secs_f64();
        // By experience at first; the longer it runs, the more by what it really took.
        let pace = if self.done > 0.0 { (spent / self.done).clamp(0.2, 5.0) } else { 1.0 };
        let left = ((self.planned - self.done).max(seconds) * pace) as u64;
        let part = (self.done / self.planned).min(1.0);
        let bar: String = (0..20).map(|at| if f64::from(at) < part * 20.0 { '#' } else { '.' }).collect();
        let line =
            format!("[{bar}] {:3.0} %  about {}:{:02} left  {what}", part * 100.0, left / 60, left % 60);
        let mut out = std::io::stderr();
        if out.is_terminal() {
            let _ = write!(out, "\r\x1b[K{line:.110}");
            let _ = out.flush();
        } else {
            let _ = writeln!(out, "{line}");
        }
        self.done += seconds;
        let mut now = self.now();
        what.clone_into(&mut now.what);
        ensure!(now.until.is_none_or(|until| Instant::now() < until), "it takes much longer than it should");
        Ok(())
    }

    pub(crate) fn took(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn add(
        &mut self,
        section: &'static str,
        variant: &str,
        run: usize,
        values: &[(&'static str, f64)],
    ) {
        for (metric, value) in values {
            self.samples.push(Sample { section, variant: variant.to_owned(), metric, run, value: *value });
        }
    }

    /// What was measured in a section: ours first, the others in their first order.
    pub(crate) fn variants(&self, section: &str) -> Vec<String> {
        let mut variants: Vec<String> = Vec::new();
        for sample in self.samples.iter().filter(|it| it.section == section) {
            if !variants.contains(&sample.variant) {
                variants.push(sample.variant.clone());
            }
        }
        // Runs begin with another one each.
        variants.sort_by_key(|variant| !variant.starts_with(OURS));
        variants
    }

    pub(crate) fn metrics(&self, section: &str) -> Vec<&'static str> {
        let mut metrics = Vec::new();
        for sample in self.samples.iter().filter(|it| it.section == section) {
            if !metrics.contains(&sample.metric) {
                metrics.push(sample.metric);
            }
        }
        metrics
    }

    /// The values of all runs, in their order.
    pub(crate) fn values(&self, section: &str, variant: &str, metric: &str) -> Vec<f64> {
        let wanted = |it: &&Sample| it.section == section && it.variant == variant && it.metric == metric;
        self.samples.iter().filter(wanted).map(|it| it.value).collect()
    }

    pub(crate) fn median(&self, section: &str, variant: &str, metric: &str) -> Option<f64> {
        median(self.values(section, variant, metric))
    }

    /// The median of the ratios of one variant to another, each in the same run.
    pub(crate) fn ratio(&self, section: &str, metric: &str, of: &str, to: &str) -> Option<f64> {
        median(self.ratios(section, metric, of, to))
    }

    /// The ratios of all runs, in their order.
    pub(crate) fn ratios(&self, section: &str, metric: &str, of: &str, to: &str) -> Vec<f64> {
        let (ones, others) = (self.values(section, of, metric), self.values(section, to, metric));
        ones.iter().zip(&others).map(|(one, other)| one / other).collect()
    }

    /// Remarks how requests per second and the p99 of a variant are to those of `others`, named as the remark calls them.
    pub(crate) fn compare(
        &mut self,
        section: &'static str,
        what: &str,
        variant: &str,
        others: &[(impl Display, String)],
    ) -> Result<()> {
        for metric in ["requests/s", "p99 ms"] {
            let ratio = |(name, other): &(_, String)| -> Result<String> {
                let ratio = self.ratio(section, metric, variant, other).context("no ratio")?;
                Ok(format!("{} of {name}", figure(ratio)))
            };
            let ratios = others.iter().map(ratio).collect::<Result<Vec<_>>>()?;
            self.remarks.push((section, format!("{what}, {metric}: {}.", ratios.join(", "))));
        }
        Ok(())
    }

    pub(crate) fn csv(&self) -> String {
        let mut csv = "section,variant,metric,run,value\n".to_owned();
        for Sample { section, variant, metric, run, value } in &self.samples {
            let value = (value * 1e4).round() / 1e4;
            let _ = writeln!(csv, "{section},\"{variant}\",\"{metric}\",{run},{value}");
        }
        csv
    }
}

/// Ends the whole run if a section has had its time, and does not get to its next step either.
fn watch(now: &Mutex<Now>) {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.until.is_some_and(|until| Instant::now() > until + PATIENCE.1) {
            eprintln!("\nerror: it does not end: {}", now.what);
            std::process::exit(1);
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let last = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], last) } else { last })
}

/// The least and the most.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let all = || values.iter().copied();
    (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max))
}

/// With as many digits as say something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let whole = format!("{value:.0}");
            let (front, back) = whole.split_at(whole.len() - 3);
            if front.len() > 3 {
                format!("{},{},{back}", &front[..front.len() - 3], &front[front.len() - 3..])
            } else {
                format!("{front},{back}")
            }
        }
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
