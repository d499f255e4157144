import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/** What pgjdbc makes of a statement that is refused: `PostgresRefused URL STATEMENT`. */
public class PostgresRefused {
  public static void main(String[] arguments) throws SQLException {
    try (Connection connection = DriverManager.getConnection(arguments[0], "x", null);
        Statement statement = connection.createStatement()) {
      System.out.println(outcome(statement, arguments[1]));
      System.out.println("after " + outcome(statement, "select 1"));
      connection.setAutoCommit(false);
      statement.execute("select 1");
      System.out.println(outcome(statement, arguments[1]));
      System.out.println("in transaction " + outcome(statement, "select 1"));
      connection.rollback();
    }
  }

  private static String outcome(Statement statement, String text) {
    try {
      statement.execute(text);
      ResultSet rows = statement.getResultSet();
      return rows != null && rows.next() ? rows.getString(1) : "done";
    } catch (SQLException error) {
      return error.getSQLState();
    }
  }
}
