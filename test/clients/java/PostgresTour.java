import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import org.postgresql.PGConnection;

/** A tour through pgjdbc: `PostgresTour URL USER PASSWORD`, a dash for no password. Prints one line a step. */
public class PostgresTour {
  public static void main(String[] arguments) throws Exception {
    String password = arguments[2].equals("-") ? null : arguments[2];
    boolean simple = arguments[0].contains("preferQueryMode=simple");
    try (Connection connection = DriverManager.getConnection(arguments[0], arguments[1], password)) {
      try (Statement statement = connection.createStatement()) {
        statement.execute("drop table if exists tourj");
        statement.execute("create table tourj (id int primary key, name text, at timestamp)");
      }
      try (PreparedStatement insert = connection.prepareStatement("insert into tourj values (?, ?, ?)")) {
        for (int id = 1; id <= 3; id++) {
          insert.setInt(1, id);
          insert.setString(2, "n" + id);
          insert.setTimestamp(3, java.sql.Timestamp.valueOf("2024-02-29 13:14:15"));
          insert.addBatch();
        }
        System.out.println("batch " + Arrays.toString(insert.executeBatch()));
      }
      try (PreparedStatement select = connection.prepareStatement("select name from tourj where id = ?")) {
        StringBuilder names = new StringBuilder();
        for (int round = 1; round <= 7; round++) {
          select.setInt(1, round % 3 + 1);
          try (ResultSet rows = select.executeQuery()) {
            rows.next();
            names.append(' ').append(rows.getString(1));
          }
        }
        System.out.println("seven times" + names);
      }
      connection.setAutoCommit(false);
      try (PreparedStatement select = connection.prepareStatement("select generate_series(1, 5)")) {
        select.setFetchSize(2);
        int sum = 0;
        try (ResultSet rows = select.executeQuery()) {
          while (rows.next()) sum += rows.getInt(1);
        }
        System.out.println("fetched " + sum);
      }
      connection.commit();
      try (Statement statement = connection.createStatement()) {
        statement.executeUpdate("update tourj set name = 'x' where id > 1");
        System.out.println("updated " + statement.getUpdateCount());
        try {
          statement.execute("select 1/0");
        } catch (SQLException error) {
          System.out.println("error " + error.getSQLState());
        }
        try {
          statement.execute("select 1");
        } catch (SQLException error) {
          System.out.println("aborted " + error.getSQLState());
        }
      }
      connection.rollback();
      connection.setAutoCommit(true);
      try (Statement statement = connection.createStatement()) {
        boolean more = statement.execute("select 1; update tourj set name = 'y'; select 3");
        StringBuilder results = new StringBuilder();
        while (more || statement.getUpdateCount() >= 0) {
          if (more) {
            ResultSet rows = statement.getResultSet();
            rows.next();
            results.append(" row ").append(rows.getInt(1));
          } else {
            results.append(" count ").append(statement.getUpdateCount());
          }
          more = statement.getMoreResults();
        }
        System.out.println("several" + results);
      }
      PGConnection postgres = connection.unwrap(PGConnection.class);
      long copied = postgres.getCopyAPI().copyIn("copy tourj (id, name) from stdin", new StringReader("100\tx\n101\t\\N\n"));
      StringWriter out = new StringWriter();
      postgres.getCopyAPI().copyOut("copy (select id, name from tourj where id >= 100 order by id) to stdout", out);
      System.out.println("copied " + copied + " " + out.toString().replace('\n', '|'));
      if (!simple) {
        connection.setAutoCommit(false);
        var large = postgres.getLargeObjectAPI();
        long oid = large.createLO();
        var object = large.open(oid);
        object.write(new byte[50000]);
        object.seek(0);
        System.out.println("large object " + object.read(60000).length);
        object.close();
        large.delete(oid);
        connection.commit();
        connection.setAutoCommit(true);
      }
      try (Statement statement = connection.createStatement()) {
        statement.execute("listen tourj; notify tourj, 'hi'");
        var notifications = postgres.getNotifications(5000);
        System.out.println("notified " + notifications[0].getParameter());
        statement.execute("drop table tourj");
      }
    }
    System.out.println("done");
  }
}
