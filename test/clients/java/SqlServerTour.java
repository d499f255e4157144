import java.math.BigDecimal;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/**
 * A tour through a JDBC driver of SQL Server: {@code SqlServerTour URL USER PASSWORD}. Prints one line a step, the same for every way
 * to the server.
 */
public class SqlServerTour {
  public static void main(String[] args) throws Exception {
    Properties properties = new Properties();
    properties.setProperty("user", args[1]);
    properties.setProperty("password", args[2]);
    boolean jtds = args[0].startsWith("jdbc:jtds");
    String table = jtds ? "tour_jtds" : "tour_jdbc";
    try (Connection connection = DriverManager.getConnection(args[0], properties)) {
      rows(connection, table);
      results(connection);
      types(connection, jtds);
      // A cursor over a procedure is a matter of its own.
      if (!args[0].contains("selectMethod=cursor")) procedure(connection, table);
      batches(connection, table);
      scrolling(connection, table, jtds);
      cancel(connection);
      if (!jtds) Microsoft.tour(connection, table);
      try (Statement statement = connection.createStatement()) {
        statement.execute("DROP TABLE " + table);
      }
    }
  }

  static void show(String step, Object value) {
    System.out.println(step + " " + value);
  }

  static List<List<Object>> all(ResultSet result) throws SQLException {
    List<List<Object>> rows = new ArrayList<>();
    while (result.next()) {
      List<Object> row = new ArrayList<>();
      for (int column = 1; column <= result.getMetaData().getColumnCount(); column++) {
        Object value = result.getObject(column);
        row.add(value instanceof byte[] bytes ? java.util.HexFormat.of().formatHex(bytes) : value);
      }
      rows.add(row);
    }
    return rows;
  }

  static void rows(Connection connection, String table) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute("DROP TABLE IF EXISTS " + table);
      statement.execute("CREATE TABLE " + table + " (id int NOT NULL PRIMARY KEY, n nvarchar(40), d decimal(18,4))");
      show("inserted", statement.executeUpdate("INSERT INTO " + table + " (id, n, d) VALUES (1, N'été ☃ 😀', 1.5), (2, NULL, NULL)"));
    }
    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + table + " (id, n, d) VALUES (?, ?, ?)")) {
      for (int id = 3; id < 6; id++) {
        insert.setInt(1, id);
        insert.setString(2, "it's ü " + id);
        insert.setBigDecimal(3, new BigDecimal("12345.6789"));
        insert.executeUpdate();
      }
    }
    connection.setAutoCommit(false);
    try (PreparedStatement update = connection.prepareStatement("UPDATE " + table + " SET n = ? WHERE id >= ?")) {
      update.setString(1, "x");
      update.setInt(2, 3);
      show("updated", update.executeUpdate());
    }
    connection.rollback();
    connection.setAutoCommit(true);
    try (Statement statement = connection.createStatement()) {
      show("rows", all(statement.executeQuery("SELECT id, n, d FROM " + table + " ORDER BY id")));
      try {
        statement.executeUpdate("INSERT INTO " + table + " (id) VALUES (1)");
      } catch (SQLException error) {
        show("duplicate", error.getErrorCode());
      }
    }
  }

  static void results(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      boolean isResult = statement.execute("SELECT 1 AS a; PRINT 'hello'; SELECT 2 AS b, N'zwei' AS c UNION ALL SELECT 3, N'drei'");
      while (isResult || statement.getUpdateCount() >= 0) {
        if (isResult) show("result", all(statement.getResultSet()));
        isResult = statement.getMoreResults();
      }
      int rows = 0;
      try (ResultSet many = statement.executeQuery("SELECT TOP 30000 1 AS a, N'some text' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b")) {
        while (many.next()) rows++;
      }
      show("many", rows);
    }
  }

  static void types(Connection connection, boolean old) throws SQLException {
    try (PreparedStatement select = connection.prepareStatement("SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?")) {
      for (int round = 0; round < 3; round++) {
        select.setInt(1, round);
        select.setLong(2, 9007199254740993L);
        select.setBoolean(3, true);
        select.setDouble(4, 3.25);
        select.setBytes(5, new byte[] {0, -1, 16});
        select.setTimestamp(6, Timestamp.valueOf("2024-02-29 13:14:15.677"));
        select.setString(7, "ü".repeat(round == 2 && !old ? 6000 : 20));
        select.setNull(8, Types.VARCHAR);
        select.setNull(9, Types.INTEGER);
        show("types", all(select.executeQuery()));
      }
    }
  }

  static void procedure(Connection connection, String table) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute("DROP PROCEDURE IF EXISTS " + table + "_out");
      statement.execute("CREATE PROCEDURE " + table + "_out @a int, @o int OUTPUT AS SELECT @a AS a; SET @o = @a * 2; RETURN 5");
    }
    try (CallableStatement call = connection.prepareCall("{? = call " + table + "_out (?, ?)}")) {
      call.registerOutParameter(1, Types.INTEGER);
      call.setInt(2, 21);
      call.registerOutParameter(3, Types.INTEGER);
      boolean isResult = call.execute();
      show("procedure", isResult ? all(call.getResultSet()) : "no result");
      while (call.getMoreResults() || call.getUpdateCount() >= 0) continue;
      show("outputs", call.getInt(1) + " " + call.getInt(3));
    }
    try (Statement statement = connection.createStatement()) {
      statement.execute("DROP PROCEDURE " + table + "_out");
    }
  }

  static void batches(Connection connection, String table) throws SQLException {
    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + table + " (id, n) VALUES (?, ?)")) {
      for (int id = 100; id < 110; id++) {
        insert.setInt(1, id);
        insert.setString(2, "batch " + id);
        insert.addBatch();
      }
      show("batch", insert.executeBatch().length);
    }
  }

  static void scrolling(Connection connection, String table, boolean jtds) throws SQLException {
    if (!jtds) return;
    try (PreparedStatement select = connection.prepareStatement("SELECT id, n FROM " + table + " WHERE id >= ?",
        ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
      select.setInt(1, 100);
      show("prepared", all(select.executeQuery()).size());
    }
  }

  static void cancel(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      Thread other = new Thread(() -> {
        try {
          Thread.sleep(200);
          statement.cancel();
        } catch (Exception error) {
          error.printStackTrace();
        }
      });
      other.start();
      long began = System.currentTimeMillis();
      try {
        statement.execute("WAITFOR DELAY '00:00:20'");
        show("cancelled", "no error");
      } catch (SQLException error) {
        show("cancelled", System.currentTimeMillis() - began < 10_000);
      }
      other.join();
      show("after", all(statement.executeQuery("SELECT 7 AS a")));
      statement.setQueryTimeout(1);
      try {
        statement.execute("WAITFOR DELAY '00:00:20'");
        show("timed out", "no error");
      } catch (SQLException error) {
        show("timed out", System.currentTimeMillis() - began < 15_000);
      }
      statement.setQueryTimeout(0);
      show("after", all(statement.executeQuery("SELECT 8 AS a")));
    }
  }

  /** What only Microsoft's driver has. Kept apart, so that jTDS runs without its classes. */
  static class Microsoft {
    static void tour(Connection connection, String table) throws Exception {
      connection.unwrap(com.microsoft.sqlserver.jdbc.SQLServerConnection.class).setEnablePrepareOnFirstPreparedStatementCall(true);
      try (PreparedStatement select = connection.prepareStatement("SELECT ? + 1 AS b")) {
        for (int value = 1; value < 4; value++) {
          select.setInt(1, value);
          show("prepared", all(select.executeQuery()));
        }
      }
      try (var bulk = new com.microsoft.sqlserver.jdbc.SQLServerBulkCopy(connection)) {
        bulk.setDestinationTableName(table);
        bulk.addColumnMapping(1, 1);
        bulk.addColumnMapping(2, 2);
        bulk.writeToServer(new Rows());
      }
      try (Statement statement = connection.createStatement()) {
        show("bulk", all(statement.executeQuery("SELECT COUNT(*) AS n FROM " + table + " WHERE id >= 1000")));
      }
    }

    static class Rows implements com.microsoft.sqlserver.jdbc.ISQLServerBulkData {
      int row = 999;

      public java.util.Set<Integer> getColumnOrdinals() {
        return java.util.Set.of(1, 2);
      }

      public String getColumnName(int column) {
        return column == 1 ? "id" : "n";
      }

      public int getColumnType(int column) {
        return column == 1 ? Types.INTEGER : Types.NVARCHAR;
      }

      public int getPrecision(int column) {
        return column == 1 ? 10 : 40;
      }

      public int getScale(int column) {
        return 0;
      }

      public Object[] getRowData() {
        return new Object[] {row, row % 2 == 0 ? null : "row " + row};
      }

      public boolean next() {
        row++;
        return row < 1300;
      }
    }
  }
}
