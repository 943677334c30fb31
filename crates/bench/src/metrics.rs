//! What the platform tells Prometheus.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Result;

/// All metrics at one time.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks by HTTP/1.0, whose answer ends when the connection does.
    pub(crate) async fn read(endpoint: &str) -> Result<Self> {
        let address = endpoint.strip_prefix("http://").ok_or("metrics are at a plain HTTP address")?;
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        connection.read_to_string(&mut text).await?;
        Ok(Self(text))
    }

    /// The sum over the series of this name with all these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "));
        let wanted = series.filter(|(given, _)| labels.iter().all(|label| given.split(',').any(|one| one == *label)));
        wanted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_name_and_labels() {
        let text = "# TYPE a gauge\na{method=\"/x\",role=\"g\"} 2\na{method=\"/y\",role=\"g\"} 3\n\
                    a{method=\"/x\",role=\"o\"} 10\na_count{method=\"/x\",role=\"g\"} 100\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.sum("a", &[r#"role="g""#]), 5.0);
        assert_eq!(metrics.sum("a", &[r#"role="g""#, r#"method="/x""#]), 2.0);
        assert_eq!(metrics.sum("a_count", &[]), 100.0);
    }
}
