-- For sysbench: every event is a new connection with one statement.

function thread_init()
  driver = sysbench.sql.driver()
end

function event()
  local connection = driver:connect()
  connection:query("SELECT 1")
  connection:disconnect()
end
