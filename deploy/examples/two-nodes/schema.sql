CREATE TABLE visit (node text NOT NULL, backend int NOT NULL);
