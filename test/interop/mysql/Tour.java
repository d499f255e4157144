import java.math.BigDecimal;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;

/**
 * A tour through a JDBC driver: `Tour URL...`. For each URL one line a stop, between lines that name the URL's number; all
 * must be the same directly and through Sallyport.
 */
public class Tour {
  public static void main(String[] urls) throws Exception {
    int number = 0;
    for (String url : urls) {
      System.out.println("# " + number++);
      try (Connection connection = DriverManager.getConnection(url, "app", "")) {
        tour(connection);
      }
    }
  }

  static void tour(Connection connection) throws Exception {
    rows(connection, "who", "SELECT CURRENT_USER(), DATABASE(), VERSION()");
    rows(connection, "charset", "SELECT @@character_set_client, @@sql_mode");
    DatabaseMetaData metadata = connection.getMetaData();
    show("product", metadata.getDatabaseProductName() + " " + metadata.getDatabaseProductVersion());
    try (ResultSet columns = metadata.getColumns("lab", null, "batch", "%")) {
      print("columns", columns, 6);
    }
    try (PreparedStatement statement = connection.prepareStatement("SELECT ?, ?, ?, ?, ?, ?")) {
      for (int round = 0; round < 3; round++) {
        statement.setInt(1, round);
        statement.setLong(2, Long.MIN_VALUE + round);
        statement.setBigDecimal(3, new BigDecimal("12345.67890"));
        statement.setString(4, "größer 😀 '\"\\");
        statement.setTimestamp(5, Timestamp.valueOf("2026-01-02 03:04:05.678"));
        statement.setNull(6, Types.VARCHAR);
        try (ResultSet result = statement.executeQuery()) {
          print("prepared", result, 6);
        }
      }
    }
    try (PreparedStatement statement = connection.prepareStatement("SELECT LENGTH(?), CRC32(?)")) {
      byte[] large = new byte[3 << 20];
      statement.setBinaryStream(1, new java.io.ByteArrayInputStream(large), large.length);
      statement.setBytes(2, large);
      try (ResultSet result = statement.executeQuery()) {
        print("large", result, 2);
      }
    }
    connection.setAutoCommit(false);
    try (PreparedStatement statement = connection.prepareStatement("INSERT INTO batch (n, s) VALUES (?, ?)")) {
      for (int n = 0; n < 60; n++) {
        statement.setInt(1, n);
        statement.setString(2, "row " + n);
        statement.addBatch();
      }
      show("batch", statement.executeBatch().length);
    }
    rows(connection, "batched", "SELECT COUNT(*), SUM(n) FROM batch");
    connection.rollback();
    rows(connection, "rolled back", "SELECT COUNT(*) FROM batch");
    connection.setAutoCommit(true);
    try (CallableStatement call = connection.prepareCall("{call two()}")) {
      results("procedure", call, call.execute());
    }
    try (CallableStatement call = connection.prepareCall("{call put(?, ?)}")) {
      call.setInt(1, 41);
      call.registerOutParameter(2, Types.INTEGER);
      call.execute();
      show("out", call.getInt(2));
    }
    try (Statement statement = connection.createStatement()) {
      results("several", statement, statement.execute("SELECT 1; SELECT 'b', 2; DO 3"));
    }
    try (Statement statement = connection.createStatement()) {
      statement.executeQuery("SELECT nosuch");
    } catch (SQLException error) {
      show("error", error.getErrorCode() + " " + error.getSQLState());
    }
    rows(connection, "warnings", "SHOW WARNINGS");
    try (Statement statement = connection.createStatement()) {
      statement.setFetchSize(50);
      try (ResultSet result = statement.executeQuery("SELECT a.n FROM numbers a, numbers b")) {
        int count = 0;
        while (result.next()) count++;
        show("fetched", count);
      }
    }
    connection.setCatalog("other");
    rows(connection, "catalog", "SELECT DATABASE()");
    connection.setCatalog("lab");
    show("valid", connection.isValid(5));
    cancel(connection);
    if (connection instanceof com.mysql.cj.jdbc.JdbcConnection) {
      com.mysql.cj.jdbc.JdbcConnection own = (com.mysql.cj.jdbc.JdbcConnection) connection;
      try (Statement statement = connection.createStatement()) {
        ((com.mysql.cj.jdbc.JdbcStatement) statement).setAttribute("trace", "tour-1");
        statement.executeQuery("SELECT 'with an attribute'");
      }
      own.changeUser("app", "");
      rows(connection, "changed", "SELECT CURRENT_USER(), DATABASE()");
      own.resetServerState();
      rows(connection, "reset", "SELECT CURRENT_USER()");
    }
  }

  /** A second connection is opened by the driver for this: to the same address. */
  static void cancel(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      Thread thread = new Thread(() -> {
        try {
          Thread.sleep(300);
          statement.cancel();
        } catch (Exception error) {
          show("cancel failed", error.getMessage());
        }
      });
      thread.start();
      long start = System.nanoTime();
      try (ResultSet result = statement.executeQuery("SELECT COUNT(*) FROM numbers a, numbers b WHERE SLEEP(1) = 0")) {
        show("cancelled", "not at all");
      } catch (SQLException error) {
        // The server's error, or the driver's own where it has noticed first that it was asked to cancel.
        boolean known = error.getErrorCode() == 1317 || error.getMessage().contains("cancelled due to client request");
        show("cancelled", known + " " + (System.nanoTime() - start < 3_000_000_000L));
      }
      thread.join();
    }
  }

  static void results(String label, Statement statement, boolean isRows) throws SQLException {
    for (;;) {
      if (isRows) {
        try (ResultSet result = statement.getResultSet()) {
          print(label, result, result.getMetaData().getColumnCount());
        }
      } else {
        int count = statement.getUpdateCount();
        if (count < 0) return;
        show(label, count);
      }
      isRows = statement.getMoreResults();
    }
  }

  static void rows(Connection connection, String label, String text) throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(text)) {
      print(label, result, result.getMetaData().getColumnCount());
    }
  }

  static void print(String label, ResultSet result, int count) throws SQLException {
    ResultSetMetaData metadata = result.getMetaData();
    while (result.next()) {
      StringBuilder line = new StringBuilder();
      for (int column = 1; column <= count; column++) {
        line.append(' ').append(metadata.getColumnLabel(column)).append('=').append(result.getString(column));
      }
      show(label, line);
    }
  }

  static void show(String label, Object value) {
    System.out.println(label + ": " + value);
  }
}
