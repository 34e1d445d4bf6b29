CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, stock int NOT NULL);
INSERT INTO item VALUES (1, 'peregrine', 100), (2, 'kestrel', 100), (3, 'merlin', 100);
