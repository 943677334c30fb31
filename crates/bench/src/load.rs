//! `load`: the queue of one office under 1 to 64 workers, each of which completes a task and claims the next with one call: how many
//! tasks a second, and how long a call takes. Where `MI_BENCH_PLOTS` names a directory, both are drawn there.

use std::{
    env,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mi_client::Client;
use mi_proto::v1::{ClaimTasksRequest, CompleteTaskRequest};
use mi_testkit::{Backend, Platform};
use plotters::prelude::{
    BLUE, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LabelAreaPosition, LineSeries, PathElement, RED,
    RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};
use tokio::task::JoinSet;

use crate::{
    Result,
    customer::{self, Customer},
    latency::Latency,
    queue::{claim, completion, fill, name_of},
    report::Table,
};

const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const ROUNDS: usize = 3;
/// How long workers work in a round.
const SPAN: Duration = Duration::from_secs(2);
/// More tasks than they do in that time.
const TASKS: usize = 10_000;
const PLOTS: &str = "MI_BENCH_PLOTS";
const SIZE: (u32, u32) = (720, 420);

/// What was measured with so many workers: tasks a second, and milliseconds of a call, one a round.
#[derive(Debug, Clone, Default)]
struct Point {
    workers: usize,
    speed: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// A line of a drawing, by the name of the database.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("load");
    let mut measured = Vec::new();
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let platform = Platform::builder().backend(backend).start().await;
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 100).await?;
        let keys = tempfile::tempdir()?;
        let mut workers = Vec::new();
        for number in 0..WORKERS[WORKERS.len() - 1] {
            let key_file = keys.path().join(number.to_string());
            let agent = customer.join(&format!("worker-{number}"), &key_file).await?;
            workers.push(customer::connect(platform.endpoint(), agent, &key_file)?);
        }
        let mut points = WORKERS.map(|workers| Point { workers, ..Point::default() });
        let mut done = TASKS;
        for _ in 0..ROUNDS {
            for point in &mut points {
                // As many as there were: an office may have so many open tasks.
                fill(&customer, done).await?;
                let (speed, latency);
                (done, speed, latency) = work_all(&customer, &workers[..point.workers]).await?;
                point.speed.push(speed);
                point.p50.push(latency.millis(0.5));
                point.p99.push(latency.millis(0.99));
            }
        }
        for point in &points {
            let name = format!("{}, {} workers", name_of(backend), point.workers);
            table.row(&format!("{name}: complete that claims the next"), "/s", &point.speed);
            table.row(&format!("{name}: the same, a call, p50"), "ms", &point.p50);
            table.row(&format!("{name}: the same, a call, p99"), "ms", &point.p99);
        }
        measured.push((name_of(backend), points));
    }
    if let Some(directory) = env::var_os(PLOTS) {
        draw_all(Path::new(&directory), &measured)?;
    }
    Ok(table)
}

/// Has workers work for a while: how many tasks, how many a second, and how long calls took.
async fn work_all(customer: &Customer, workers: &[Client]) -> Result<(usize, f64, Latency)> {
    let latency = Arc::new(Mutex::new(Latency::new()?));
    let start = Instant::now();
    let mut working: JoinSet<Result<usize>> = JoinSet::new();
    for worker in workers {
        let (customer, worker, latency) = (customer.clone(), worker.clone(), latency.clone());
        working.spawn(async move { work(&customer, &worker, start, &latency).await });
    }
    let mut done = 0;
    while let Some(tasks) = working.join_next().await {
        done += tasks??;
    }
    let speed = done as f64 / start.elapsed().as_secs_f64();
    let latency = Arc::into_inner(latency).ok_or("a worker goes on")?;
    Ok((done, speed, latency.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

async fn work(customer: &Customer, worker: &Client, start: Instant, latency: &Mutex<Latency>) -> Result<usize> {
    let mut tasks = worker.tasks();
    let mut held = tasks.claim_tasks(claim(customer, 1, 0)).await?.into_inner().tasks.pop();
    let mut done = 0;
    while let Some(task) = held.take() {
        let goes_on = start.elapsed() < SPAN;
        let claim_next = goes_on.then(|| ClaimTasksRequest { wait: None, ..claim(customer, 1, 0) });
        let request = CompleteTaskRequest { claim_next, ..completion(customer, task) };
        let began = Instant::now();
        held = tasks.complete_task(request).await?.into_inner().claimed.pop();
        latency.lock().unwrap_or_else(PoisonError::into_inner).record(began.elapsed());
        done += 1;
    }
    Ok(done)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn draw_all(directory: &Path, measured: &[(&str, [Point; WORKERS.len()])]) -> Result {
    let lines = |of: fn(&Point) -> (f64, f64)| -> Vec<Line<'_>> {
        measured.iter().map(|(name, points)| (*name, points.iter().map(of).collect())).collect()
    };
    let speeds = lines(|point| (point.workers as f64, median(&point.speed)));
    draw(&directory.join("queue-throughput.svg"), ("workers", "tasks a second"), &[("", speeds)])?;
    let halves = lines(|point| (point.workers as f64, median(&point.p50)));
    let most = lines(|point| (point.workers as f64, median(&point.p99)));
    let latencies = [(", p50", halves), (", p99", most)];
    draw(&directory.join("queue-latency.svg"), ("workers", "milliseconds of a call"), &latencies)
}

/// Draws groups of lines over the number of workers.
fn draw(path: &Path, (x, y): (&str, &str), groups: &[(&str, Vec<Line<'_>>)]) -> Result {
    let all = groups.iter().flat_map(|(_, lines)| lines).flat_map(|(_, points)| points);
    let top = all.map(|(_, y)| *y).fold(0.0, f64::max) * 1.1;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let workers: Range<f64> = 1.0..WORKERS[WORKERS.len() - 1] as f64;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 60)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d(workers.log_scale().base(2.0), 0.0..top)?;
    chart.configure_mesh().x_desc(x).y_desc(y).x_label_formatter(&|x| format!("{x:.0}")).draw()?;
    for (group, (suffix, lines)) in groups.iter().enumerate() {
        for ((name, points), color) in lines.iter().zip([BLUE, RED]) {
            // The lines of a second group are paler.
            let color = color.mix(if group == 0 { 1.0 } else { 0.45 });
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
            line.label(format!("{name}{suffix}"))
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color.stroke_width(2)));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        // Where lines that rise leave room.
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(120, 120, 120))
        .draw()?;
    Ok(root.present()?)
}
