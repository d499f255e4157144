<?php
// A tour through PHP's mysqlnd: `tour.php PORT`, by mysqli and by PDO. Prints one line of JSON for each stop.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$port = (int) $argv[1];

function show(string $label, mixed $value): void {
    echo json_encode([$label, $value], JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
}

$link = mysqli_init();
$link->options(MYSQLI_OPT_LOCAL_INFILE, 1);
$link->real_connect('127.0.0.1', 'app', '', 'lab', $port);
$link->set_charset('utf8mb4');
show('who', $link->query('SELECT CURRENT_USER(), DATABASE(), VERSION()')->fetch_row());
$statement = $link->prepare('SELECT ?, ?, ?, ?, CONCAT(?, 1)');
$i = 42; $d = 1.25; $s = "größer 😀"; $null = null;
$statement->bind_param('idsss', $i, $d, $s, $null, $s);
$statement->execute();
show('prepared', $statement->get_result()->fetch_row());
$i = 43;
$statement->execute();
show('again', $statement->get_result()->fetch_row());
$statement->close();

$long = $link->prepare('SELECT LENGTH(?), CRC32(?)');
$blob = null; $text = 'plain';
$long->bind_param('bs', $blob, $text);
for ($n = 0; $n < 20; $n++) $long->send_long_data(0, str_repeat('abc', 10000));
$long->execute();
show('long data', $long->get_result()->fetch_row());
$long->close();

$cursor = $link->prepare('SELECT n FROM numbers ORDER BY n');
$cursor->attr_set(MYSQLI_STMT_ATTR_CURSOR_TYPE, MYSQLI_CURSOR_TYPE_READ_ONLY);
$cursor->execute();
$cursor->bind_result($value);
$sum = 0;
while ($cursor->fetch()) $sum += $value;
show('cursor', $sum);
$cursor->close();

$link->multi_query("SELECT 1; SELECT 'b', 2; CALL two()");
$results = [];
do {
    $result = $link->store_result();
    $results[] = $result ? $result->fetch_all() : $link->affected_rows;
} while ($link->more_results() && $link->next_result());
show('several', $results);
$call = $link->prepare('CALL put(?, @out)');
$call->bind_param('i', $i);
$call->execute();
$call->close();
show('out', $link->query('SELECT @out')->fetch_row());
try {
    $link->query('SELECT nosuch');
} catch (mysqli_sql_exception $error) {
    show('error', [$error->getCode(), $error->getSqlState(), $error->getMessage()]);
}
show('warnings', $link->query('SHOW WARNINGS')->fetch_all());
$file = tempnam(sys_get_temp_dir(), 'csv');
file_put_contents($file, "1,a\n2,b\n");
$link->begin_transaction();
$link->query("LOAD DATA LOCAL INFILE '$file' INTO TABLE batch FIELDS TERMINATED BY ',' (n, s)");
show('file', [$link->affected_rows, $link->info]);
unlink($file);
$link->rollback();
$rows = $link->query('SELECT a.n FROM numbers a, numbers b', MYSQLI_USE_RESULT);
$count = 0;
while ($rows->fetch_row()) $count++;
show('unbuffered', $count);
$rows->free();
$link->query('SET @x = 5');
$link->change_user('app', '', 'other');
show('changed', $link->query('SELECT CURRENT_USER(), DATABASE(), @x, @@character_set_client')->fetch_row());
show('stat', (bool) $link->stat());
$link->close();

foreach ([false, true] as $emulate) {
    $pdo = new PDO("mysql:host=127.0.0.1;port=$port;dbname=lab;charset=utf8mb4", 'app', '', [
        PDO::ATTR_EMULATE_PREPARES => $emulate,
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
    ]);
    $insert = $pdo->prepare('INSERT INTO batch (n, s) VALUES (:n, :s)');
    $pdo->beginTransaction();
    for ($n = 0; $n < 10; $n++) $insert->execute(['n' => $n, 's' => "row $n"]);
    show('inserted', $pdo->query('SELECT COUNT(*) FROM batch')->fetchColumn());
    $pdo->rollBack();
    show('rolled back', $pdo->query('SELECT COUNT(*) FROM batch')->fetchColumn());
    $select = $pdo->prepare('SELECT n, ? FROM numbers WHERE n < ? ORDER BY n');
    $select->bindValue(1, 'ü');
    $select->bindValue(2, 3, PDO::PARAM_INT);
    $select->execute();
    show('selected', $select->fetchAll(PDO::FETCH_NUM));
    $call = $pdo->query('CALL two()');
    show('procedure', [$call->fetchAll(PDO::FETCH_NUM), $call->nextRowset(), $call->fetchAll(PDO::FETCH_NUM)]);
}
