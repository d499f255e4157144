import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/**
 * Signs in to PostgreSQL with pgjdbc. Each argument is a JDBC URL; one line is printed for each: `account NAME` or
 * `error SQLSTATE TEXT`. With `cancel ` before the URL, a query is given one second, and `cancelled SQLSTATE` is printed
 * before the account.
 */
public class SignIn {
  public static void main(String[] arguments) {
    for (String argument : arguments) System.out.println(attempt(argument));
  }

  private static String attempt(String argument) {
    boolean cancels = argument.startsWith("cancel ");
    String url = cancels ? argument.substring("cancel ".length()) : argument;
    try (Connection connection = DriverManager.getConnection(url);
        Statement statement = connection.createStatement()) {
      String cancelled = cancels ? cancel(statement) : "";
      try (ResultSet result = statement.executeQuery("SELECT current_user::text")) {
        result.next();
        return cancelled + "account " + result.getString(1);
      }
    } catch (SQLException error) {
      return "error " + error.getSQLState() + " " + error.getMessage().replace('\n', ' ');
    }
  }

  private static String cancel(Statement statement) throws SQLException {
    statement.setQueryTimeout(1);
    try {
      statement.execute("SELECT pg_sleep(60)");
      return "ran through ";
    } catch (SQLException error) {
      return "cancelled " + error.getSQLState() + " ";
    } finally {
      statement.setQueryTimeout(0);
    }
  }
}
