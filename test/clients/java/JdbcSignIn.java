import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/**
 * Signs in by JDBC, several times in one run: `JdbcSignIn QUERY URL USER PASSWORD [URL USER PASSWORD]...`, a dash for no
 * password. Prints one line a sign-in: `ok`, or `error`, and the value or the message.
 */
public class JdbcSignIn {
  public static void main(String[] arguments) {
    for (int at = 1; at + 2 < arguments.length; at += 3) {
      String password = arguments[at + 2].equals("-") ? null : arguments[at + 2];
      try (Connection connection = DriverManager.getConnection(arguments[at], arguments[at + 1], password);
          Statement statement = connection.createStatement();
          ResultSet rows = statement.executeQuery(arguments[0])) {
        rows.next();
        System.out.println("ok " + rows.getString(1));
      } catch (SQLException error) {
        System.out.println("error " + error.getErrorCode() + " " + String.valueOf(error.getMessage()).replace('\n', ' '));
      }
    }
  }
}
